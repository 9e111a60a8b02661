"""CiaoSR and CLIT as bundles: parity on weights with structure, any size and cut, tiles, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from decoder_pairs import Pairs, spec
from hiif_deploy import OptionError, RenderOptions, Upscaler
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import compare_stored
from hiif_export.export import export_bundle
from hiif_export.parity.parity import cases, check, compare
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.reference import upscale

ENCODER = "swinir"


@pytest.fixture(scope="module", params=("ciaosr", "clit"))
def exported(request: pytest.FixtureRequest, pairs: Pairs) -> tuple[ImplicitModel, Path]:
    return pairs.model(request.param, ENCODER), pairs.bundle(request.param, ENCODER)


def frame(height: int, width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(sample("chelsea")[40 : 40 + height, 60 : 60 + width])


def test_any_size_and_scale_agrees_with_pytorch(exported: tuple[ImplicitModel, Path]) -> None:
    suite = cases(sizes=((1, 1), (7, 5), (13, 16)), scales=(1.0, 2.5, 4.0, 6.0, (1.5, 2.75)))
    with Upscaler(exported[1]) as upscaler:
        check(compare(exported[0], upscaler, suite))


def test_a_bundle_is_verified_without_pytorch(exported: tuple[ImplicitModel, Path]) -> None:
    with Upscaler(exported[1]) as upscaler:
        assert all(difference.largest <= 1e-4 for difference in compare_stored(upscaler).values())


@pytest.mark.parametrize("options", [RenderOptions(query_block=97), RenderOptions(tile_rows=2, query_block=400)])
def test_the_output_does_not_depend_on_how_queries_are_cut(
    exported: tuple[ImplicitModel, Path], options: RenderOptions
) -> None:
    size = (61, 85)
    with Upscaler(exported[1]) as whole, Upscaler(exported[1], options=options) as cut:
        expected = whole.render_unclamped(whole.encode(frame(9, 14)), size=size)
        found = cut.render_unclamped(cut.encode(frame(9, 14)), size=size)
        region = cut.render(cut.encode(frame(9, 14)), size=size, region=(10, 20, 30, 40))
        part = whole.render(whole.encode(frame(9, 14)), size=size)[10:40, 20:60]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(region.astype(int) - part.astype(int)).max() <= 1


def test_upscale_gives_pytorchs_picture(exported: tuple[ImplicitModel, Path]) -> None:
    model, folder = exported
    with Upscaler(folder) as upscaler:
        found = upscaler.upscale(frame(11, 14), scale=3.3)
    expected = np.rint(upscale(model, frame(11, 14), (found.shape[0], found.shape[1])) * 255)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_half_precision_is_refused_by_name(exported: tuple[ImplicitModel, Path], tmp_path: Path) -> None:
    described = spec(exported[1].name.split("-")[0], ENCODER)
    with pytest.raises(OptionError, match="cannot be exported in fp16, only in fp32"):
        export_bundle(exported[0], described, tmp_path / "x", name="x", provenance={}, precisions=("fp32", "fp16"))
