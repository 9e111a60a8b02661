"""Shared by the tests of native code."""

from __future__ import annotations

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from hiif_deploy.errors import EngineError
from hiif_engines.native.arithmetic import ARITHMETICS
from hiif_engines.native.compile import require_processor


@pytest.fixture(autouse=True)
def _instructions(request: pytest.FixtureRequest) -> None:
    """Skips where this processor cannot run what the test makes."""
    named = getattr(request.node, "callspec", None)
    arithmetic = named.params.get("arithmetic", "fp32") if named else "fp32"
    try:
        require_processor(ARITHMETICS[arithmetic], arithmetic)
    except EngineError as error:
        pytest.skip(str(error))
