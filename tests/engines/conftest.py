"""Shared by the tests of engines: the real builder that runs without a GPU, and small bundles of every encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy.backends.tensorrt.library import Library, load_library
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.errors import EngineAbsentError


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


@pytest.fixture(scope="session", params=["edsr-baseline", "rdn", "span", "swinir"])
def encoder_bundle(request: pytest.FixtureRequest) -> Bundle:
    """HIIF around each kind of encoder, in both precisions."""
    pytest.importorskip("onnxscript")
    from encoder_bundles import encoder_bundle_of

    return open_bundle(encoder_bundle_of(request.param))
