"""A tile's products with one panel of a matrix: its rows' sums in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from hiif_engines.native.emit import WORD, Emitter, Value, number
from hiif_engines.native.products.nonzero import Nonzero
from hiif_engines.native.products.precision import MatrixPrecision

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
    nonzero: Nonzero | None = None,
) -> list[tuple[int, int, Value]]:  # fmt: skip
    """Emit a tile's products with the panel at output `first`: (row, output within the panel, float32 vector).

    Inputs before `start` are skipped; with `nonzero`, where all are listed or not, those that are not.
    """
    precision, vectors = matrix.precision, e.target.panel(matrix.outputs) // e.lanes
    totals = products(e, matrix, rows, row_bytes, first, start, nonzero=nonzero)
    found = []
    for v in range(vectors):
        offsets = (WORD * (v * e.lanes + (1 + n) * matrix.outputs) for n in range(precision.constants))
        constants = [e.load(e.floats, matrix.vectors, e.times(first, WORD), offset) for offset in offsets]
        for r in range(e.target.rows):
            found.append((r, v * e.lanes, precision.real(e, totals[r * vectors + v], factors, r, constants)))
    return found


def products(
    e: Emitter, matrix: Matrix, rows: Value, row_bytes: int, first: Value, start: Value | int = 0,
    totals: Sequence[Value] = (), nonzero: Nonzero | None = None,
) -> list[Value]:  # fmt: skip
    """Emit a tile's products with the panel at output `first`, added to `totals`: for each row the panel's vectors, in
    the precision's type of a sum. Inputs are skipped as in `sums`."""
    precision, panel = matrix.precision, e.target.panel(matrix.outputs)
    vectors, kind = panel // e.lanes, ir.VectorType(precision.element, e.lanes)
    elements: Value | int = matrix.inputs // precision.inputs
    weights = e.at(matrix.weights, e.times(first, WORD * matrix.inputs // precision.inputs))
    if not isinstance(start, int):
        skipped = e.builder.udiv(start, number(precision.inputs))
        elements = e.builder.sub(number(matrix.inputs // precision.inputs), skipped)
        rows, weights = e.at(rows, e.times(skipped, WORD)), e.at(weights, e.times(skipped, WORD * panel))
    zero = ir.Constant(ir.VectorType(precision.total, e.lanes), None)
    unroll, elements = (UNROLL, elements) if nonzero is None else (1, nonzero.count)
    with e.loop(elements, unroll, totals or [zero] * (e.target.rows * vectors)) as turn:
        inside = e.times(turn.index, WORD), e.times(turn.index, WORD * panel)
        inside_row, inside_panel = inside if nonzero is None else nonzero.place(e, turn.index)
        at, column = e.at(rows, inside_row), e.at(weights, inside_panel)
        for n in range(unroll):
            some = [e.load(kind, column, WORD * (n * panel + v * e.lanes)) for v in range(vectors)]
            for r in range(e.target.rows):
                row = e.spread(e.load(precision.element, at, r * row_bytes + WORD * n))
                for v, element in enumerate(some):
                    turn.values[r * vectors + v] = precision.add_product(e, turn.values[r * vectors + v], row, element)
    return turn.values
