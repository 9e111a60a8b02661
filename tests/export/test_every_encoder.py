"""Export, verify and upscale with each kind of encoder, in small sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from decoder_pairs import Pairs
from hiif_deploy import RenderOptions, Upscaler
from hiif_deploy.decoding.job import ignore
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import check_stored, compare_stored
from hiif_export.parity.parity import cases, check, compare
from hiif_training.models.implicit import ImplicitModel


@pytest.fixture(scope="module", params=(pytest.param("rdn", marks=pytest.mark.slow), "swinir"))
def exported(request: pytest.FixtureRequest, pairs: Pairs) -> tuple[ImplicitModel, Path]:
    """A small model and its bundle."""
    return pairs.model("hiif", request.param), pairs.bundle("hiif", request.param)


def test_any_size_and_scale_agrees_with_pytorch(exported: tuple[ImplicitModel, Path]) -> None:
    model, folder = exported
    with Upscaler(folder) as upscaler:
        check(compare(model, upscaler, cases(sizes=((8, 8), (17, 3), (31, 26)), scales=(2.0, 2.7))))
        check_stored(compare_stored(upscaler))


def test_frames_are_upscaled_whole_and_by_the_published_evaluation(exported: tuple[ImplicitModel, Path]) -> None:
    _, folder = exported
    frame = sample("coffee")[:21, :34]
    with Upscaler(folder) as upscaler, Upscaler(folder, options=RenderOptions(group_rows=16)) as published:
        whole, grouped = upscaler.upscale(frame, scale=2.0), published.upscale(frame, scale=2.0)
    assert whole.shape == grouped.shape == (42, 68, 3)
    assert np.abs(whole.astype(int) - grouped).max() > 0


def test_the_published_evaluation_of_a_window_transformer_is_that_of_the_padded_picture(
    exported: tuple[ImplicitModel, Path],
) -> None:
    _, folder = exported
    frame = sample("coffee")[:16, :13].astype(np.float32) / 255
    with Upscaler(folder, options=RenderOptions(group_rows=300)) as published:
        if published.contract.encoder.size_multiple == 1:
            pytest.skip("this encoder takes any size, nothing is padded")
        padded = np.pad(frame, ((0, 8), (0, 3), (0, 0)), mode="symmetric")
        expected = published.render(published.encode(padded), size=(48, 32))[:32, :26]
        assert np.abs(published.upscale(frame, scale=2.0) - expected).max() <= 1e-6


def test_tiles_are_exact_where_the_receptive_field_is_finite_and_blended_otherwise(
    exported: tuple[ImplicitModel, Path],
) -> None:
    _, folder = exported
    image = sample("chelsea")[:72, :56].astype(np.float32) / 255
    with Upscaler(folder) as upscaler:
        contract = upscaler.contract
        field = contract.encoder.receptive_field
        plan = dataclasses.replace(
            upscaler.plan((72, 56)),
            encoder_tile=(24, 32),
            overlap=field or 16,
            blended=field is None,
        )
        whole = upscaler.encode(image).encoded
        tiled = upscaler._backend.encode(image, plan, ignore)
    difference = np.abs(tiled - whole).max()
    assert difference <= 1e-5 if field is not None else 1e-5 < difference <= 0.2 * np.abs(whole).max()
