"""Native code for another processor: for AArch64 cross-compiled by LLVM and GCC, and run by QEMU's user mode; for tiles
run here but for those (`emulated_tiles.py`)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding as llvm
from llvmlite import ir

from emulated_tiles import with_emulated_tiles
from hiif_engines.native import backend, encoder, finish, maps, session
from hiif_engines.native import compile as native_compile
from hiif_engines.native.compile import OPTIMISATION, Argument, Call, Compiled
from hiif_engines.native.target import TARGETS, Target

EMULATED = TARGETS["neon"]
GCC, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64"
DRIVER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

void FUNCTION(void *arguments);

int main(void) {
    uint64_t count, sizes[999];
    void *values[999];
    fread(&count, 8, 1, stdin);
    fread(sizes, 8, count, stdin);
    for (uint64_t n = 0; n < count; n++) {
        values[n] = sizes[n] ? malloc(sizes[n]) : 0;
        fread(sizes[n] ? values[n] : &values[n], sizes[n] ? sizes[n] : 8, 1, stdin);
    }
    FUNCTION(values);
    for (uint64_t n = 0; n < count; n++)
        if (sizes[n]) fwrite(values[n], sizes[n], 1, stdout);
}
"""
"""Reads sizes of arrays, 0 for a number, then arrays and numbers; writes the arrays after the call."""


class EmulatedCode:
    """The functions of a module, as `Compiled` has them. Every call is a process and writes whole arrays, so that
    calls at the same time must not share any."""

    def __init__(self, module: ir.Module) -> None:
        self._path = _folder(self)
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        parsed = llvm.parse_assembly(str(module))
        parsed.triple = "aarch64-linux-gnu"
        machine = llvm.Target.from_triple(parsed.triple).create_target_machine(
            opt=OPTIMISATION, reloc="pic", codemodel="default"
        )
        (self._path / "code.o").write_bytes(machine.emit_object(parsed))

    def function(self, name: str) -> Call:
        """Return the function as a program of its own."""
        program = self._path / name
        linked = [_driver(), self._path / "code.o", "-o", program]
        subprocess.run([GCC, "-static", f"-Wl,--defsym=FUNCTION={name}", *linked], check=True)
        return partial(self._call, program)

    def _call(self, program: Path, values: Sequence[Argument]) -> None:
        arrays = [value if isinstance(value, np.ndarray) else None for value in values]
        sizes = [0 if array is None else array.nbytes for array in arrays]
        parts = [np.array([len(values), *sizes], np.uint64).tobytes()]
        parts += [np.uint64(v or 0).tobytes() if isinstance(v, int | None) else v.tobytes() for v in values]
        done = subprocess.run([QEMU, program], input=b"".join(parts), capture_output=True, check=True)
        first = 0
        for array, size in zip(arrays, sizes, strict=True):
            found = done.stdout[first : first + size]
            first += size
            # What a call only reads may be read-only, or two arguments.
            if array is not None and found != array.tobytes():
                array.reshape(-1).view(np.uint8)[:] = np.frombuffer(found, np.uint8)


def _folder(owner: object) -> Path:
    """Return a new folder, which is removed with its owner."""
    path = tempfile.mkdtemp()
    weakref.finalize(owner, shutil.rmtree, path)
    return Path(path)


@cache
def _driver() -> Path:
    folder = _folder(_driver)
    (folder / "driver.c").write_text(DRIVER, encoding="ascii")
    subprocess.run([GCC, "-O2", "-w", "-c", folder / "driver.c", "-o", folder / "driver.o"], check=True)
    return folder / "driver.o"


def compiled(module: ir.Module, target: Target) -> Compiled | EmulatedCode:
    """Return a module's functions, emulated where this processor cannot run them."""
    return _opened(lambda: module, target)


def _opened(write: Callable[[], ir.Module], target: Target, described: object = None) -> Compiled | EmulatedCode:
    if target is EMULATED and not has_processor():
        return EmulatedCode(write())
    if target.tiles and not has_tiles():
        return Compiled(lambda: with_emulated_tiles(write()), target)
    return Compiled(write, target, described)


@cache
def has_processor() -> bool:
    """Whether this processor runs the code itself."""
    return llvm.get_default_triple().startswith(("aarch64", "arm64"))


@cache
def has_tiles() -> bool:
    """Whether this processor has tiles, and the system grants them."""
    return "amx-tile" in native_compile._features()


def missing_tools() -> list[str]:
    """Return what is not installed."""
    return [name for name in (GCC, QEMU) if shutil.which(name) is None]


def emulate(patch: pytest.MonkeyPatch) -> None:
    """Let this process open native code for AArch64, and run it emulated."""
    _pretend(patch, {EMULATED.machine})
    # Emulated calls take arrays, to write into them what a program has written.
    for module in (encoder, session):
        patch.setattr(module, "address", lambda array: array)


def emulate_tiles(patch: pytest.MonkeyPatch) -> None:
    """Let this process open native code with tiles, and run them in NumPy; libraries have none."""
    has_tiles()
    patch.setattr(backend, "has_amx", lambda: False)
    _pretend(patch, {"amx-tile", "amx-bf16", "amx-int8"})


def _pretend(patch: pytest.MonkeyPatch, more: set[str]) -> None:
    features = native_compile._features() | more
    patch.setattr(native_compile, "_features", lambda: features)
    for module in (backend, encoder, finish, maps):
        patch.setattr(module, "Compiled", _opened)
