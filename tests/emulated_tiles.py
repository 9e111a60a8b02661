"""The processor's tiles (AMX) in NumPy, for processors without: what the code calls instead of LLVM's own functions.

Every other instruction runs as it is. Semantics are those of Intel's Software Developer's Manual: TILELOADD, TILEZERO,
TDPBF16PS, TDPBUSD, TILESTORED, LDTILECFG, TILERELEASE.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from functools import cache

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir

ROWS, ROW, REGISTERS = 16, 64, 8
WANTED = bytes([1, *[0] * 15, *[ROW, 0] * REGISTERS, *[0] * 16, *[ROWS] * REGISTERS, *[0] * 8])
"""Configuration of eight tiles of 16 rows by 64 bytes."""
OWN = re.compile(r'@"llvm\.x86\.(ldtilecfg|tile\w+|tdp\w+)"')


class Tiles(threading.local):
    """A thread's tiles: none before they are configured."""

    def __init__(self) -> None:
        self.registers: np.ndarray | None = None

    def tile(self, register: int, kind: type[np.generic]) -> np.ndarray:
        """One of them, [rows, values of that kind]."""
        assert self.registers is not None, "tiles are used before they are configured"
        return self.registers[register].view(kind)


_tiles = Tiles()
errors: list[BaseException] = []
"""What went wrong in a function that native code called."""


def ldtilecfg(address: int) -> None:
    assert ctypes.string_at(address, len(WANTED)) == WANTED
    _tiles.registers = np.zeros((REGISTERS, ROWS, ROW), np.uint8)


def tilerelease() -> None:
    _tiles.registers = None


def tilezero(register: int) -> None:
    _tiles.tile(register, np.uint8)[:] = 0


def tileloadd64(register: int, address: int, stride: int) -> None:
    _tiles.tile(register, np.uint8)[:] = _memory(address, stride)


def tilestored64(register: int, address: int, stride: int) -> None:
    _memory(address, stride)[:] = _tiles.tile(register, np.uint8)


def tdpbf16ps(total: int, rows: int, weights: int) -> None:
    left, right = ((_tiles.tile(n, np.uint16).astype(np.uint32) << 16).view(np.float32) for n in (rows, weights))
    _tiles.tile(total, np.float32)[:] += left @ _by_input(right, 2)


def tdpbusd(total: int, rows: int, weights: int) -> None:
    # Whole numbers up to 2²⁴ are exact in float32: 64 products of 255 and 127 are below 2²¹.
    left, right = (_tiles.tile(n, kind).astype(np.float32) for n, kind in ((rows, np.uint8), (weights, np.int8)))
    _tiles.tile(total, np.int32)[:] += (left @ _by_input(right, 4)).astype(np.int32)


def _by_input(weights: np.ndarray, together: int) -> np.ndarray:
    """[elements, outputs · together] as [elements · together, outputs]."""
    return weights.reshape(ROWS, ROWS, together).swapaxes(1, 2).reshape(-1, ROWS)


def _memory(address: int, stride: int) -> np.ndarray:
    """A tile's bytes in memory, [rows, bytes]."""
    whole = np.frombuffer(_kind(ROWS * stride - stride + ROW).from_address(address), np.uint8)
    return np.lib.stride_tricks.as_strided(whole, (ROWS, ROW), (stride, 1))


@cache
def _kind(size: int) -> type[ctypes.Array[ctypes.c_uint8]]:
    return ctypes.c_uint8 * size


FUNCTIONS: dict[Callable[..., None], tuple[type, ...]] = {
    ldtilecfg: (ctypes.c_void_p,),
    tilerelease: (),
    tilezero: (ctypes.c_uint8,),
    tileloadd64: (ctypes.c_uint8, ctypes.c_void_p, ctypes.c_int64),
    tilestored64: (ctypes.c_uint8, ctypes.c_void_p, ctypes.c_int64),
    tdpbf16ps: (ctypes.c_uint8,) * 3,
    tdpbusd: (ctypes.c_uint8,) * 3,
}
"""Function → types of its arguments."""


def with_emulated_tiles(module: ir.Module) -> str:
    """Return the module's text, which calls the functions of this file."""
    _register()
    return OWN.sub(r'@"emulated_\1"', str(module))


@cache
def _register() -> list[object]:
    """Make the functions known to native code; the result keeps them alive."""
    kept = []
    for function, kinds in FUNCTIONS.items():
        pointer = ctypes.CFUNCTYPE(None, *kinds)(_noted(function))
        llvm.add_symbol(f"emulated_{function.__name__}", ctypes.cast(pointer, ctypes.c_void_p).value)
        kept.append(pointer)
    return kept


def _noted(function: Callable[..., None]) -> Callable[..., None]:
    def call(*values: int) -> None:
        try:
            function(*values)
        except BaseException as error:
            errors.append(error)

    return call
