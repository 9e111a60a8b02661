"""Shared by the tests of native code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from emulated_code import EMULATED, emulate, has_processor, missing_tools
from hiif_deploy.decoding.session import ComputePrecision
from hiif_engines.native.compile import lacking
from hiif_engines.native.target import TARGETS, Target


@pytest.fixture(scope="session", params=list(TARGETS))
def own_target(request: pytest.FixtureRequest) -> Target:
    """Each instruction set; skips where this processor lacks it."""
    found = TARGETS[request.param]
    if found is EMULATED and not has_processor():
        pytest.skip(f"code for {found.name} needs {found.machine}, not emulated here")
    return _required(found, "fp32")


# Per module: emulation changes what the process believes of its processor, and must not outlast its tests.
@pytest.fixture(scope="module", params=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Each instruction set; skips where this processor lacks it and cannot emulate it."""
    found = TARGETS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        if found is EMULATED and not has_processor():
            if request.config.getoption("--isa"):
                pytest.skip("emulated without --isa")
            if tools := missing_tools():
                pytest.skip(f"emulating {found.machine} needs {', '.join(tools)}")
            emulate(patch)
        yield _required(found, "fp32")


@pytest.fixture(autouse=True)
def _instructions(request: pytest.FixtureRequest) -> None:
    """Skips where this processor lacks the instructions of a test's precision."""
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    name = params.get("target", params.get("own_target"))
    if name and "precision" in params and name != EMULATED.name:
        _required(TARGETS[name], params["precision"])


def _required(target: Target, precision: ComputePrecision) -> Target:
    if names := lacking(target, precision):
        pytest.skip(f"code for {target.name} in {precision} needs {', '.join(names)}")
    return target
