"""Shared by the tests of native code."""

from __future__ import annotations

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from hiif_deploy.decoding.session import ComputePrecision
from hiif_engines.native.compile import lacking
from hiif_engines.native.target import TARGETS, Target


@pytest.fixture(scope="session", params=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    """Each instruction set; skips where this processor lacks it."""
    _require(TARGETS[request.param], "fp32")
    return TARGETS[request.param]


@pytest.fixture(autouse=True)
def _instructions(request: pytest.FixtureRequest) -> None:
    """Skips where this processor lacks the instructions of a test's precision."""
    named = getattr(request.node, "callspec", None)
    if named and {"target", "precision"} <= set(named.params):
        _require(TARGETS[named.params["target"]], named.params["precision"])


def _require(target: Target, precision: ComputePrecision) -> None:
    if names := lacking(target, precision):
        pytest.skip(f"code for {target.name} in {precision} needs {', '.join(names)}")
