"""Compiles LLVM's intermediate code to this processor's machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numpy.typing import NDArray

from hiif_deploy.backends.choice import library_engine
from hiif_deploy.backends.options import IsaName
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import EngineError, OptionError
from hiif_engines.native.target import TARGETS, Target

OPTIMISATION = 2
"""LLVM's level for register allocation and instruction order."""

Argument = NDArray[Any] | int | None
"""Argument of native code, 8 bytes: an array's address, a number, or 0."""
Call = Callable[[Sequence[Argument]], None]
"""A function of native code."""


class Compiled:
    """The functions of a module, each of a pointer to its arguments. They run without Python's lock, on several threads
    at once."""

    def __init__(self, module: ir.Module, target: Target) -> None:
        """EngineError where LLVM rejects the code, as another version may."""
        try:
            parsed = llvm.parse_assembly(str(module))
            parsed.verify()
            # No optimisation passes: they take as long as everything else, and gain nothing on code that is written so.
            self._engine = llvm.create_mcjit_compiler(parsed, machine_of(target))
            self._engine.finalize_object()
        except RuntimeError as error:
            version = ".".join(map(str, llvm.llvm_version_info))
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(f"LLVM {version} rejects native code ({reason}): use --engine onnxruntime") from error

    def function(self, name: str) -> Call:
        """Return a function, which keeps the code alive. Its arguments are numbers and the addresses of arrays."""
        return partial(self._call, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._engine.get_function_address(name)))

    def _call(self, function: Callable[[int], None], values: Sequence[Argument]) -> None:
        arguments = np.array([v if isinstance(v, int) else _address(v) for v in values], np.uint64)
        function(arguments.ctypes.data)


def choose_target(precision: ComputePrecision, isa: IsaName | None = None) -> Target:
    """Return the first target that has the precision and whose instructions this processor has; else EngineError.

    With `isa` return that one; OptionError where it lacks the precision, or this processor its instructions.
    """
    if isa is not None:
        return _named_target(precision, isa)
    targets = [one for one in TARGETS.values() if one.machine in _features() and precision in one.precisions]
    for target in targets:
        if not lacking(target, precision):
            return target
    reason = f"is not written for {llvm.get_default_triple()}"
    if targets:
        names = ", ".join(lacking(targets[-1], precision))
        reason = f"needs instructions that {llvm.get_host_cpu_name()} does not have ({names})"
    raise EngineError(f"native code in {precision} {reason}: use --engine {library_engine(precision)}")


def _named_target(precision: ComputePrecision, isa: IsaName) -> Target:
    target = TARGETS[isa]
    if precision not in target.precisions:
        raise OptionError(
            f"native code for {isa} computes in {', '.join(target.precisions)} and not in {precision}: leave isa out"
        )
    if names := lacking(target, precision):
        raise OptionError(
            f"native code for {isa} in {precision} needs instructions that {llvm.get_host_cpu_name()} does not have "
            f"({', '.join(names)}): leave isa out"
        )
    return target


def lacking(target: Target, precision: ComputePrecision) -> list[str]:
    """Return the kind of processor and the features that the target's code needs in a precision and does not find."""
    return sorted(({target.machine} | target.needs | target.precisions[precision]) - _features())


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else array.ctypes.data


@cache
def _features() -> frozenset[str]:
    """Return the kind of this processor, and the names of its features."""
    machine = llvm.get_default_triple().split("-")[0]
    found = {name for name, there in llvm.get_host_cpu_features().items() if there}
    return frozenset({"aarch64" if machine == "arm64" else machine} | found)


def machine_of(target: Target) -> llvm.TargetMachine:
    """Return LLVM's compiler for this processor, kept to the target's instructions."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    host = llvm.get_host_cpu_features()
    # Every feature is listed: without its sign, LLVM would take those of the processor's name.
    features = llvm.FeatureMap({name: on and not name.startswith(target.unused) for name, on in host.items()})
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=OPTIMISATION, jit=True
    )
