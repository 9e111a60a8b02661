"""Shared by the tests of native code."""

from __future__ import annotations

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from hiif_deploy.errors import EngineError
from hiif_engines.native.compile import require_processor
from hiif_engines.native.precision import PRECISIONS


@pytest.fixture(autouse=True)
def _instructions(request: pytest.FixtureRequest) -> None:
    """Skips where this processor cannot run what the test makes."""
    named = getattr(request.node, "callspec", None)
    precision = named.params.get("precision", "fp32") if named else "fp32"
    try:
        require_processor(PRECISIONS[precision], precision)
    except EngineError as error:
        pytest.skip(str(error))
