"""Products by the processor's own tiles (AMX): 16 rows by 64 bytes each, in eight registers of their own.

A tile of rows is two of them, and so is a panel of 32 outputs: four tiles of sums, to which 16 elements of a row are
added at once. A product leaves its sums in memory, from where vectors read them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from hiif_engines.native.emit import I8, WORD, Emitter, Value, number
from hiif_engines.native.target import TILE

if TYPE_CHECKING:
    from hiif_engines.native.products.product import Matrix

TILE_BYTES = WORD * TILE
"""Bytes in a row of a tile."""
REGISTERS = 8
CONFIGURATION = np.zeros(64, np.uint8)
"""Operand of LDTILECFG: palette 1; bytes per row of each tile, in 16 bits, from byte 16; rows of each from byte 48."""
CONFIGURATION[0] = 1
CONFIGURATION[16 : 16 + 2 * REGISTERS : 2] = TILE_BYTES
CONFIGURATION[48 : 48 + REGISTERS] = TILE
SUMS, ROWS, WEIGHTS = ((0, 1), (2, 3)), (4, 5), (6, 7)
"""Registers of sums by rows and outputs, of two tiles of rows, of two tiles of weights."""


def emit_begin(e: Emitter) -> None:
    """Emit the configuration of this thread's tiles, where the target has any."""
    if not e.target.tiles:
        return
    kind = ir.ArrayType(I8, len(CONFIGURATION))
    known = e.module.globals.get("tiles")
    if known is None:
        known = ir.GlobalVariable(e.module, kind, "tiles")
        known.global_constant, known.linkage, known.align = True, "internal", TILE_BYTES
        known.initializer = ir.Constant(kind, bytearray(CONFIGURATION.tobytes()))
    _call(e, "ldtilecfg", known)


def emit_end(e: Emitter) -> None:
    """Emit the release of this thread's tiles, where the target has any: the system need not save them any more."""
    if e.target.tiles:
        _call(e, "tilerelease")


def emit_tile_sums(
    e: Emitter, matrix: Matrix, rows: Value, row_bytes: int, first: Value, start: Value | int, room: Value
) -> None:
    """Emit a tile's products with the panel at output `first`, to `room`: [rows, panel] of the precision's sums.

    Inputs before `start`, which has whole panels before it, may be skipped.
    """
    panel, elements = e.target.panel(matrix.outputs), matrix.precision.elements(matrix.inputs, e.target)
    width = WORD * panel
    # Zeros lie before `start`: as many as are no whole step are multiplied.
    skipped = number(0) if isinstance(start, int) else _whole_steps(e, start, matrix.precision.inputs)
    weights = e.at(matrix.weights, e.times(first, WORD * elements), e.times(skipped, width))
    rows = e.at(rows, e.times(skipped, WORD))
    columns = range(panel // TILE)
    for pair in SUMS:
        for c in columns:
            _call(e, "tilezero", _register(pair[c]))
    with e.loop(e.builder.sub(number(elements), skipped), TILE) as turn:
        for r, register in enumerate(ROWS):
            at = e.at(rows, r * TILE * row_bytes, e.times(turn.index, WORD))
            _call(e, "tileloadd64", _register(register), at, number(row_bytes))
        for c in columns:
            at = e.at(weights, e.times(turn.index, width), c * TILE_BYTES)
            _call(e, "tileloadd64", _register(WEIGHTS[c]), at, number(width))
            for pair, row in zip(SUMS, ROWS, strict=True):
                _emit_product(e, matrix, pair[c], row, WEIGHTS[c])
    for r, pair in enumerate(SUMS):
        for c in columns:
            _call(e, "tilestored64", _register(pair[c]), e.at(room, r * TILE * width, c * TILE_BYTES), number(width))


def _whole_steps(e: Emitter, inputs: Value, in_element: int) -> Value:
    """Emit the number of elements in the whole tiles before an input."""
    return e.times(e.builder.udiv(inputs, number(TILE * in_element)), TILE)


def _emit_product(e: Emitter, matrix: Matrix, total: int, row: int, weights: int) -> None:
    registers = (_register(n) for n in (total, row, weights))
    e.call(matrix.precision.tile_product, ir.VoidType(), *registers, overloaded=False)


def _call(e: Emitter, name: str, *values: Value) -> None:
    e.call(f"llvm.x86.{name}", ir.VoidType(), *values, overloaded=False)


def _register(n: int) -> Value:
    return ir.Constant(I8, n)
