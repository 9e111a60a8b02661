"""LLVM's intermediate code → this processor's machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial

from llvmlite import binding as llvm
from llvmlite import ir

from hiif_deploy.errors import EngineError
from hiif_engines.native.arithmetic import ComputePrecision

OPTIMISATION = 2
"""Of registers and of the order of instructions."""


class Compiled:
    """A module's functions, each of one pointer. They may run on several threads at once, without Python's lock."""

    def __init__(self, module: ir.Module) -> None:
        """EngineError where LLVM does not take it, as another version may not."""
        try:
            parsed = llvm.parse_assembly(str(module))
            parsed.verify()
            # No passes over the module: they take as long as all else, and find nothing in code that is written so.
            self._engine = llvm.create_mcjit_compiler(parsed, _machine())
            self._engine.finalize_object()
        except RuntimeError as error:
            version = ".".join(map(str, llvm.llvm_version_info))
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(
                f"LLVM {version} does not take native code ({reason}): use --engine onnxruntime"
            ) from error

    def function(self, name: str) -> Callable[[int], None]:
        """It takes an address, and keeps the code alive."""
        return partial(self._call, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._engine.get_function_address(name)))

    def _call(self, function: Callable[[int], None], arguments: int) -> None:
        function(arguments)


def require_processor(arithmetic: ComputePrecision, name: str) -> None:
    """EngineError where this processor lacks instructions that the arithmetic's code consists of."""
    lacking = sorted(arithmetic.flags - _features())
    if lacking:
        raise EngineError(
            f"native code in {name} needs instructions that {llvm.get_host_cpu_name()} does not have "
            f"({', '.join(lacking)}): use --engine onnxruntime"
        )


@cache
def _features() -> frozenset[str]:
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=OPTIMISATION, jit=True)
