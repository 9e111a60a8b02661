"""Machine code that cannot be had is refused in words."""

from __future__ import annotations

import gc
import re

import numpy as np
import pytest
from llvmlite import binding as llvm
from llvmlite import ir

from hiif_deploy import EngineError
from hiif_deploy.backends.options import IsaName
from hiif_deploy.decoding.session import ComputePrecision
from hiif_engines.native import compile as native_compile
from hiif_engines.native.compile import Compiled, choose_target, lacking, machine_of
from hiif_engines.native.emit import POINTER, Emitter
from hiif_engines.native.layer import Layer, ScratchLayout, emit_layer
from hiif_engines.native.precision import FP32
from hiif_engines.native.target import TARGETS, Target


def module(target: Target, name: str) -> ir.Module:
    """A function that stores a vector of what one of LLVM's own makes of 4."""
    found = ir.Module("test")
    e = Emitter(target, found, "run", [POINTER])
    e.store(e.call(name, e.floats, e.reals(4.0)), e.load(POINTER, e.arguments[0]))
    e.finish()
    return found


def test_code_that_llvm_does_not_take_is_refused(own_target: Target) -> None:
    with pytest.raises(EngineError, match=r"LLVM \d+\.\d+\.\d+ rejects native code \(.*--engine onnxruntime"):
        Compiled("define nonsense", own_target)


@pytest.mark.parametrize(
    ("isa", "precision", "missing"),
    [("avx2", "fp32", "fma"), ("avx512", "bf16", "avx512bf16"), ("avx512", "int8", "avx512vnni")],
)
def test_lacking_instructions_are_named(
    isa: IsaName, precision: ComputePrecision, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGETS[isa]
    features = {target.machine} | target.needs | target.precisions[precision]
    monkeypatch.setattr(native_compile, "_features", lambda: features)
    assert choose_target(precision) is target
    monkeypatch.setattr(native_compile, "_features", lambda: features - {missing})
    with pytest.raises(EngineError, match=rf"native code in {precision} needs .*\({missing}\)"):
        choose_target(precision)


def test_code_for_avx2_has_no_instruction_that_avx2_lacks() -> None:
    kinds = {}
    for name in ("avx2", "avx512"):
        target = TARGETS[name]
        if lacking(target, "fp32"):
            pytest.skip(f"this processor lacks {name}")
        found = ir.Module("test")
        emit_layer(found, "run", Layer(64, 64, 64, None, False, FP32, FP32), ScratchLayout(target, 64))
        code = machine_of(target).emit_assembly(llvm.parse_assembly(str(found)))
        kinds[name] = set(re.findall(r"%(zmm|k\d|[xy]mm(?:1[6-9]|[23]\d))", code))
    # Wide vectors, masks and registers from 16 on.
    assert kinds["avx2"] == set()
    assert "zmm" in kinds["avx512"]


def test_a_function_keeps_its_code_alive(own_target: Target) -> None:
    answer = np.zeros(own_target.lanes, np.float32)
    function = Compiled(module(own_target, "llvm.sqrt"), own_target).function("run")
    gc.collect()
    function([answer])
    assert (answer == 2).all()
