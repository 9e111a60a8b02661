"""Shared by the tests of native code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from emulated_code import EMULATED, emulate, emulate_tiles, has_processor, has_tiles, missing_tools
from emulated_tiles import errors
from hiif_deploy.decoding.session import ComputePrecision
from hiif_engines.native.compile import lacking
from hiif_engines.native.target import TARGETS, Target

FP32 = [name for name, target in TARGETS.items() if "fp32" in target.precisions]


# Both per module: emulation changes what the process believes of its processor, and must not outlast its tests.
@pytest.fixture(scope="module", params=FP32)
def own_target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Each instruction set; skips where this processor lacks it. Tiles are emulated."""
    found = TARGETS[request.param]
    if found is EMULATED and not has_processor():
        pytest.skip(f"code for {found.name} needs {found.machine}, not emulated here")
    yield from _with_tiles(found)


@pytest.fixture(scope="module", params=FP32)
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
        yield from _with_tiles(found)


def _with_tiles(target: Target) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        if target.tiles and not has_tiles():
            emulate_tiles(patch)
        errors.clear()
        yield _required(target, min(target.precisions, key=lambda precision: len(target.precisions[precision])))
        assert not errors


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
