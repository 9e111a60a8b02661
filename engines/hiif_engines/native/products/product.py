"""A tile's products with one panel of a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llvmlite import ir

from hiif_engines.native.emit import WORD, Emitter, Value, number
from hiif_engines.native.products.nonzero import Nonzero
from hiif_engines.native.products.precision import MatrixPrecision
from hiif_engines.native.products.tiles import emit_tile_sums
from hiif_engines.native.target import Target

UNROLL = 2
"""Elements of a product per iteration of its loop."""


@dataclass(frozen=True)
class Matrix:
    """One of a layer's products while its code is written."""

    precision: MatrixPrecision
    inputs: int
    outputs: int
    weights: Value
    """Pointer to the weights, packed in panels."""
    vectors: Value
    """Pointer to float32 [1 + constants + …, outputs]: bias, the precision's constants, a table of bits."""


def sums(
    e: Emitter, matrix: Matrix, rows: Value, row_bytes: int, first: Value, factors: Value, start: Value | int = 0,
    nonzero: Nonzero | None = None, room: Value | None = None,
) -> Iterator[tuple[int, int, Value]]:  # fmt: skip
    """Emit a tile's products with the panel at output `first`: (row, output within the panel, float32 vector).

    Inputs before `start` are skipped; with `nonzero`, where all are listed or not, those that are not. `room` is where
    the processor's tiles leave their sums.
    """
    precision, panel = matrix.precision, e.target.panel(matrix.outputs)
    is_stored = precision.depth(e.target) > 1
    if is_stored:
        emit_tile_sums(e, matrix, rows, row_bytes, first, start, room)
    else:
        totals = products(e, matrix, rows, row_bytes, first, start, nonzero=nonzero)
    for v in range(0, panel, e.lanes):
        offsets = (WORD * (v + (1 + n) * matrix.outputs) for n in range(precision.constants))
        constants = [e.load(e.floats, matrix.vectors, e.times(first, WORD), offset) for offset in offsets]
        for r in range(e.target.rows):
            if is_stored:
                total = e.load(ir.VectorType(precision.total, e.lanes), room, WORD * (r * panel + v))
            else:
                total = totals[(r * panel + v) // e.lanes]
            yield r, v, precision.real(e, total, factors, r, constants)


def products(
    e: Emitter, matrix: Matrix, rows: Value, row_bytes: int, first: Value, start: Value | int = 0,
    totals: Sequence[Value] = (), nonzero: Nonzero | None = None,
) -> list[Value]:  # fmt: skip
    """Emit a tile's products with the panel at output `first`, added to `totals`: for each row the panel's vectors, in
    the precision's type of a sum. Inputs are skipped as in `sums`."""
    precision, panel = matrix.precision, e.target.panel(matrix.outputs)
    vectors = panel // e.lanes
    elements: Value | int = matrix.inputs // precision.inputs
    weights = e.at(matrix.weights, e.times(first, WORD * matrix.inputs // precision.inputs))
    if not isinstance(start, int):
        skipped = e.builder.udiv(start, number(precision.inputs))
        elements = e.builder.sub(number(matrix.inputs // precision.inputs), skipped)
        rows, weights = e.at(rows, e.times(skipped, WORD)), e.at(weights, e.times(skipped, WORD * panel))
    zero = ir.Constant(ir.VectorType(precision.total, e.lanes), None)
    found, step = [], rows_at_once(e.target, vectors)
    for r in range(0, e.target.rows, step):
        given = totals[r * vectors : (r + step) * vectors] or [zero] * (step * vectors)
        found += _row_sums(
            e, precision, e.at(rows, r * row_bytes), row_bytes, weights, elements, vectors, given, nonzero
        )
    return found


def rows_at_once(target: Target, vectors: int) -> int:
    """Return as many of a tile's rows as have sums in registers, beside a vector of the panel each and a row's value.

    These are all of them, unless the tile is of another precision's size.
    """
    most = (target.registers - vectors - 1) // vectors
    return max(rows for rows in range(1, most + 1) if target.rows % rows == 0)


def _row_sums(
    e: Emitter, precision: MatrixPrecision, rows: Value, row_bytes: int, weights: Value, elements: Value | int,
    vectors: int, totals: Sequence[Value], nonzero: Nonzero | None,
) -> list[Value]:  # fmt: skip
    """Emit the products of as many rows as there are `totals` for."""
    kind, panel = ir.VectorType(precision.element, e.lanes), vectors * e.lanes
    unroll, elements = (UNROLL, elements) if nonzero is None else (1, nonzero.count)
    with e.loop(elements, unroll, totals) as turn:
        inside = e.times(turn.index, WORD), e.times(turn.index, WORD * panel)
        inside_row, inside_panel = inside if nonzero is None else nonzero.place(e, turn.index)
        at, column = e.at(rows, inside_row), e.at(weights, inside_panel)
        for n in range(unroll):
            some = [e.load(kind, column, WORD * (n * panel + v * e.lanes)) for v in range(vectors)]
            for r in range(len(totals) // vectors):
                row = e.spread(e.load(precision.element, at, r * row_bytes + WORD * n))
                for v, element in enumerate(some):
                    turn.values[r * vectors + v] = precision.add_product(e, turn.values[r * vectors + v], row, element)
    return turn.values
