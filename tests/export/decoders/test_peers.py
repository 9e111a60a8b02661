"""LIIF, LTE, LTE+, SRNO and MetaSR as bundles, after a little training: equal to their plain modules at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decoder_pairs import HALF, Pairs
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.contract import expected_stages
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.images.samples import sample
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_export.parity.parity import cases, check, compare
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.reference import upscale

SIZE = (40, 52)


@pytest.fixture(scope="module", params=HALF)
def bundle(request: pytest.FixtureRequest, pairs: Pairs) -> tuple[ImplicitModel, Path]:
    """A trained model and its bundle in both precisions."""
    return pairs.model(request.param, "edsr-baseline"), pairs.bundle(request.param, "edsr-baseline")


def test_whole_and_broken_and_anisotropic_scales_agree_with_pytorch(bundle: tuple[ImplicitModel, Path]) -> None:
    suite = cases(sizes=((1, 1), (7, 5)), scales=(1.0, 2.0, 3.3, 8.0, (1.5, 2.75)))
    with Upscaler(bundle[1], engine=EngineOptions(engine="onnxruntime", threads=1)) as upscaler:
        check(compare(bundle[0], upscaler, suite))


def test_half_precision_was_verified_too(bundle: tuple[ImplicitModel, Path]) -> None:
    assert len(open_bundle(bundle[1]).contract.parity["fp16"]["cases"]) == 8


def rendered(folder: Path, picture: NDArray[np.uint8], **options: Any) -> NDArray[np.float32]:
    with Upscaler(
        folder, options=RenderOptions(**options), engine=EngineOptions(engine="onnxruntime", threads=1)
    ) as upscaler:
        return upscaler.render_unclamped(upscaler.encode(picture), size=SIZE)


def test_the_output_is_pytorchs_however_the_work_is_cut(bundle: tuple[ImplicitModel, Path]) -> None:
    model, folder = bundle
    picture = sample("astronaut")[40:53, 60:77]
    expected = upscale(model, picture, SIZE)
    for cut in ({}, {"query_block": 64}):
        np.testing.assert_allclose(rendered(folder, picture, **cut).clip(0, 1), expected, atol=1e-4, rtol=0)


def test_the_contract_records_what_the_published_model_does(bundle: tuple[ImplicitModel, Path]) -> None:
    model, folder = bundle
    with Upscaler(folder) as upscaler:
        decoder, stages = upscaler.contract.decoder, upscaler.contract.stages
    assert (decoder.skip, decoder.clips_cell) == (model.traits.skip, model.traits.clips_cell)
    coupled = "sronet" in folder.name
    assert decoder.statistics_passes == (2 if coupled else 0)
    assert list(stages) == (expected_stages(2) if coupled else [])
