"""Compiles LLVM's intermediate code to this processor's machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial

from llvmlite import binding as llvm
from llvmlite import ir

from hiif_deploy.errors import EngineError
from hiif_engines.native.precision import MatrixPrecision

OPTIMISATION = 2
"""LLVM's level for register allocation and instruction order."""


class Compiled:
    """The functions of a module, each with one pointer. They run without Python's lock, on several threads at once."""

    def __init__(self, module: ir.Module) -> None:
        """EngineError where LLVM rejects the code, as another version may."""
        try:
            parsed = llvm.parse_assembly(str(module))
            parsed.verify()
            # No optimisation passes: they take as long as everything else, and gain nothing on code that is written so.
            self._engine = llvm.create_mcjit_compiler(parsed, _machine())
            self._engine.finalize_object()
        except RuntimeError as error:
            version = ".".join(map(str, llvm.llvm_version_info))
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(f"LLVM {version} rejects native code ({reason}): use --engine onnxruntime") from error

    def function(self, name: str) -> Callable[[int], None]:
        """Return a function of an address, which keeps the code alive."""
        return partial(self._call, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._engine.get_function_address(name)))

    def _call(self, function: Callable[[int], None], arguments: int) -> None:
        function(arguments)


def require_processor(precision: MatrixPrecision, name: str) -> None:
    """Raise EngineError where this processor lacks instructions of the precision's code."""
    lacking = sorted(precision.flags - _features())
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
