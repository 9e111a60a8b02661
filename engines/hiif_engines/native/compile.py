"""Compiles LLVM's intermediate code to this processor's machine code."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numpy.typing import NDArray

from hiif_deploy.backends.choice import library_engine
from hiif_deploy.backends.options import IsaName
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.support.cache_dir import code_folder
from hiif_deploy.support.files import write_file
from hiif_engines.native.target import TARGETS, Target
from hiif_engines.native.tile_permission import request_tiles

logger = logging.getLogger(__name__)
OPTIMISATION = 2
"""LLVM's level for register allocation and instruction order."""
FOLDER, KEPT = "native", 256
"""Folder of compiled code below the store's root, and the most files in it, of some hundred kilobytes each."""
HASH = 32
"""Bytes of a SHA-256."""

LINE = 64
"""Bytes of a line of the caches."""

Argument = NDArray[Any] | int | None
"""Argument of native code, 8 bytes: an array's address, a number, or 0."""
Call = Callable[[Sequence[Argument]], None]
"""A function of native code."""


class Compiled:
    """The functions of a module, each of a pointer to its arguments. They run without Python's lock, on several threads
    at once."""

    def __init__(self, write: Callable[[], ir.Module], target: Target, described: object = None) -> None:
        """`write` the module where it is not kept from an earlier time. `described` is everything that the module
        follows from, and its `repr` the same in every process; None: nothing is kept. EngineError where LLVM rejects
        the code, as another version may."""
        try:
            machine = machine_of(target)
            path = None if described is None else kept_path(repr((target, described)))
            code = _kept(path)
            if code is None:
                code = _compiled(write(), machine)
                _keep(path, code)
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
            self._engine.finalize_object()
        except RuntimeError as error:
            version = ".".join(map(str, llvm.llvm_version_info))
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(f"LLVM {version} rejects native code ({reason}): use --engine onnxruntime") from error

    def function(self, name: str) -> Call:
        """Return a function, which keeps the code alive. Its arguments are numbers and the addresses of arrays."""
        return partial(self._call, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._engine.get_function_address(name)))

    def _call(self, function: Callable[[int], None], values: Sequence[Argument]) -> None:
        # An array of ctypes is made in a third of the time that one of NumPy takes.
        kind = ctypes.c_uint64 * len(values)
        arguments = kind(*(value if isinstance(value, int) else address(value) for value in values))
        function(ctypes.addressof(arguments))


def kept_path(described: str) -> Path | None:
    """Return the file of code for this processor that follows from `described`; None where nothing can be kept.

    Its name depends on all that writes the code: these modules, LLVM, the processor and its features.
    """
    if " at 0x" in described:
        raise ValueError(f"{described}: not the same in another process")
    folder = code_folder(FOLDER)
    facts = (described, _sources(), llvm.llvm_version_info, llvm.get_host_cpu_name(), sorted(_features()))
    return folder and folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.o"


def _compiled(module: ir.Module, machine: llvm.TargetMachine) -> bytes:
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    # No optimisation passes: they take as long as everything else, and gain nothing on code that is written so.
    code: bytes = machine.emit_object(parsed)
    return code


def _kept(path: Path | None) -> bytes | None:
    """Return kept code, which begins with its hash; None where there is none, or not the whole."""
    try:
        found = path.read_bytes() if path else b""
    except OSError:
        return None
    code = found[HASH:]
    if hashlib.sha256(code).digest() == found[:HASH]:
        return code
    if found:
        logger.warning("%s: damaged, it is compiled again", path)
    return None


def _keep(path: Path | None, code: bytes) -> None:
    """Write the code, and remove what was written longest ago where there are more than `KEPT` files."""
    if path is None:
        return
    try:
        write_file(path, hashlib.sha256(code).digest() + code)
        for old in sorted(path.parent.glob("*.o"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.info("compiled code is not kept: %s", error)


@cache
def _sources() -> str:
    """Return a hash of the modules that write code."""
    modules = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


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
        names = min((lacking(target, precision) for target in targets), key=len)
        reason = f"needs instructions that {llvm.get_host_cpu_name()} does not have ({', '.join(names)})"
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


def address(array: NDArray[Any] | None) -> int:
    """Return an array's address, for arguments of several calls; the caller keeps the array alive."""
    return 0 if array is None else array.ctypes.data


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Copy an array to where a line of the caches begins: tiles are read by rows of a line."""
    memory = np.empty(array.nbytes + LINE, np.uint8)
    first = -memory.ctypes.data % LINE
    found = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bf16 and int8 (AMX)."""
    return "amx-tile" in _features()


@cache
def _features() -> frozenset[str]:
    """Return the kind of this processor, and the names of its features."""
    machine = llvm.get_default_triple().split("-")[0]
    found = {name for name, there in llvm.get_host_cpu_features().items() if there}
    if "amx-tile" in found and not request_tiles():
        found = {name for name in found if not name.startswith("amx")}
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
