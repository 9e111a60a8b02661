"""Machine code that cannot be had is refused in words."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from llvmlite import ir

from hiif_deploy import EngineError
from hiif_deploy.decoding.session import ComputePrecision
from hiif_engines.native import compile as native_compile
from hiif_engines.native.compile import Compiled, choose_target
from hiif_engines.native.emit import POINTER, Emitter
from hiif_engines.native.target import TARGETS, Target


def module(target: Target, name: str) -> ir.Module:
    """A function that stores what one of LLVM's own makes of 4."""
    found = ir.Module("test")
    e = Emitter(target, found, "run", [POINTER])
    e.store(e.call(name, e.floats, e.reals(4.0)), e.arguments[0])
    e.finish()
    return found


def test_code_that_llvm_does_not_take_is_refused() -> None:
    with pytest.raises(EngineError, match=r"LLVM \d+\.\d+\.\d+ rejects native code \(.*--engine onnxruntime"):
        Compiled("define nonsense")


@pytest.mark.parametrize(
    ("precision", "missing"), [("fp32", "avx512f"), ("bf16", "avx512bf16"), ("int8", "avx512vnni")]
)
def test_lacking_instructions_are_named(
    precision: ComputePrecision, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGETS["avx512"]
    features = target.needs | target.precisions[precision]
    monkeypatch.setattr(native_compile, "_features", lambda: features)
    assert choose_target(precision) is target
    monkeypatch.setattr(native_compile, "_features", lambda: features - {missing})
    with pytest.raises(EngineError, match=rf"native code in {precision} needs .*\({missing}\)"):
        choose_target(precision)


def test_a_function_keeps_its_code_alive(target: Target) -> None:
    answer = np.zeros(16, np.float32)
    function = Compiled(module(target, "llvm.sqrt")).function("run")
    gc.collect()
    function(answer.ctypes.data)
    assert (answer == 2).all()
