"""Machine code that cannot be had is refused in words."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from llvmlite import ir

from hiif_deploy import EngineError
from hiif_engines.native import compile as native_compile
from hiif_engines.native.compile import Compiled, require_processor
from hiif_engines.native.emit import FLOATS, POINTER, Emitter, reals
from hiif_engines.native.precision import PRECISIONS


def module(name: str) -> ir.Module:
    """A function that stores what one of LLVM's own makes of 4."""
    found = ir.Module("test")
    e = Emitter(found, "run", [POINTER])
    e.store(e.call(name, FLOATS, reals(4.0)), e.arguments[0])
    e.finish()
    return found


def test_code_that_llvm_does_not_take_is_refused() -> None:
    with pytest.raises(EngineError, match=r"LLVM \d+\.\d+\.\d+ rejects native code \(.*--engine onnxruntime"):
        Compiled("define nonsense")


@pytest.mark.parametrize(("name", "lacking"), [("fp32", "avx512f"), ("bf16", "avx512bf16"), ("int8", "avx512vnni")])
def test_lacking_instructions_are_named(name: str, lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = PRECISIONS[name].flags
    monkeypatch.setattr(native_compile, "_features", lambda: flags)
    require_processor(PRECISIONS[name], name)
    monkeypatch.setattr(native_compile, "_features", lambda: flags - {lacking})
    with pytest.raises(EngineError, match=rf"native code in {name} needs .*\({lacking}\)"):
        require_processor(PRECISIONS[name], name)


def test_a_function_keeps_its_code_alive() -> None:
    answer = np.zeros(16, np.float32)
    function = Compiled(module("llvm.sqrt")).function("run")
    gc.collect()
    function(answer.ctypes.data)
    assert (answer == 2).all()
