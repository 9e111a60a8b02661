"""The model of each picture: the default one, or for compressed and noisy pictures the one trained on such."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy import EngineOptions, RenderOptions, Upscaler
from hiif_deploy.errors import BundleError, EngineError
from hiif_deploy.images.degradation import Degradation
from hiif_deploy.images.samples import sample
from hiif_deploy.pictures.suited import SuitedModels

CLEAN, OLD = Degradation(), Degradation(jpeg=40)
NAMES = ("hiif-video", "hiif-photo")


def test_a_clean_picture_has_the_default_model_and_opens_no_other() -> None:
    with Upscaler(NAMES[0]) as default, SuitedModels(default, "absent") as models:
        assert models.choose(CLEAN) is default
        assert models.failure is None


def test_compressed_pictures_share_the_other_model_with_the_same_options() -> None:
    options = RenderOptions(memory=1 << 26)
    with Upscaler(NAMES[0], engine=EngineOptions(engine="onnxruntime", threads=1), options=options) as default:
        with SuitedModels(default) as models:
            other = models.choose(OLD)
            assert other.contract.name == NAMES[1]
            assert (other.engine, other.options) == (default.engine, default.options)
            assert models.choose(Degradation(noise=12)) is other
        with pytest.raises(EngineError, match="closed"):
            other.upscale(sample("coffee")[:8, :8], scale=2)


def test_a_default_model_that_was_trained_on_such_pictures_stays() -> None:
    with Upscaler(NAMES[1]) as default, SuitedModels(default, "absent") as models:
        assert models.choose(OLD) is default


def test_a_model_that_cannot_be_opened_is_reported_once_and_the_default_is_taken(tmp_path: Path) -> None:
    with Upscaler(NAMES[0]) as default, SuitedModels(default, str(tmp_path)) as models:
        assert models.choose(OLD) is models.choose(OLD) is default
        assert isinstance(models.failure, BundleError)
