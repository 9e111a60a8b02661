"""Shared by the tests of engines: the real builder that runs without a GPU, and small bundles of every encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy.bundle import Bundle, open_bundle
from hiif_deploy.errors import EngineAbsentError
from hiif_deploy.trt_library import Library, load_library


@pytest.fixture(scope="session")
def rtx() -> Library:
    """TensorRT-RTX, whose parser and builder run on a processor; skips where it is not installed."""
    try:
        return load_library("tensorrt-rtx")
    except EngineAbsentError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def half(half_bundle: Path) -> Bundle:
    """The tiny model in both precisions."""
    return open_bundle(half_bundle)


@pytest.fixture(scope="session", params=["edsr-baseline", "rdn", "swinir"])
def encoder_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """HIIF around each kind of encoder, in both precisions."""
    from encoder_bundles import export_encoder_bundle

    return open_bundle(export_encoder_bundle(request.param, tmp_path_factory.mktemp("encoders") / request.param))
