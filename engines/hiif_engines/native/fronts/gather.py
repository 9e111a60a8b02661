"""Level 0 up to its second product: four map rows of a query, weighted, normalised, through GELU (decoding.md §3a)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hiif_engines.native.emit import FLOAT, I32, I64, WORD, Emitter, Value, real
from hiif_engines.native.functions.gelu import EXACT, gelu
from hiif_engines.native.layer import Norm, bits, inverse_deviation

MAPS = tuple(f"map_{k}" for k in range(4))
TAPS, DISTANCES = ("row_tap", "column_tap"), ("row_distance", "column_distance")
GATHERED = (*MAPS, "moments", *TAPS, *DISTANCES, "rows", "columns", "cell_moments", "level_0")
"""Arguments: the graph's inputs; number of rows and columns; Σ and Σ² of `cell`; level 0's bias and table with it."""
TAP = 8
"""Number of bytes of an index."""
AREA_SCALE = 2.0**30
"""Scale of the areas as in the exported graphs: a power of two, so that no bit of a ratio changes."""
AREA_EPSILON = 1.0737418240000000
"""float32(1e-9) · 2³⁰, rounded as the graphs round it (design/model.md C5)."""


@dataclass(frozen=True)
class Gather:
    """Sizes of level 0's first part."""

    width: int
    """Number of values in a map's row."""
    norm: Norm
    """LayerNorm over four rows of features, cell and bits."""


def emit_gather(
    e: Emitter, front: Gather, slots: Mapping[str, Value], first: Value, count: Value, rows: Value, row_bytes: int
) -> None:
    """Write queries first, …, first + count − 1 of rows × columns to `rows`, in float32."""
    b = e.builder
    size = front.width * WORD
    with e.loop(count) as turn:
        query = b.add(first, turn.index)
        place = emit_place(e, slots, query)
        pixels, weights = emit_corners(e, slots, place)
        code = e.load(I32, slots["codes"], e.times(query, WORD))
        scale = e.spread(_scale(e, front, slots, pixels, weights, code))
        weights = [e.spread(weight) for weight in weights]
        maps = [e.at(slots[name], e.times(pixel, size)) for name, pixel in zip(MAPS, pixels, strict=True)]
        table = e.at(slots["level_0"], size, e.times(b.zext(code, I64), size))
        for n in range(0, size, e.lanes * WORD):
            value = e.load(e.floats, table, n)
            for row, weight in zip(maps, weights, strict=True):
                value = e.fma(e.load(e.floats, row, n), weight, value)
            value = gelu(e, e.fma(value, scale, e.load(e.floats, slots["level_0"], n)), EXACT)
            e.store(value, rows, e.times(turn.index, row_bytes), n)


def emit_place(e: Emitter, slots: Mapping[str, Value], query: Value) -> tuple[Value, Value]:
    """Emit a query's row and column."""
    columns = e.builder.ptrtoint(slots["columns"], I64)
    return e.builder.udiv(query, columns), e.builder.urem(query, columns)


def emit_corners(e: Emitter, slots: Mapping[str, Value], place: tuple[Value, Value]) -> tuple[list[Value], list[Value]]:
    """Emit the four pixels around the query in that row and column, and the weights of their areas."""
    b = e.builder
    (tops, lefts), (heights, widths) = emit_pairs(e, slots, place, TAPS), emit_pairs(e, slots, place, DISTANCES)
    heights = [b.fmul(height, real(AREA_SCALE)) for height in heights]
    areas = [b.fadd(b.fmul(height, width), real(AREA_EPSILON)) for height in heights for width in widths]
    total = b.fadd(b.fadd(b.fadd(areas[0], areas[1]), areas[2]), areas[3])
    # A corner's weight is the area at the opposite one.
    return [b.add(top, left) for top in tops for left in lefts], [b.fdiv(area, total) for area in reversed(areas)]


def emit_pairs(
    e: Emitter, slots: Mapping[str, Value], place: tuple[Value, Value], names: tuple[str, str]
) -> list[list[Value]]:
    """Emit both values of a query's row and both of its column, from tables [2, rows] and [2, columns]."""
    b = e.builder
    kind, size = (I64, TAP) if names == TAPS else (FLOAT, WORD)
    counts = [b.ptrtoint(slots[name], I64) for name in ("rows", "columns")]
    return [
        [e.load(kind, slots[name], e.times(n, size)) for n in (index, b.add(index, count))]
        for name, index, count in zip(names, place, counts, strict=True)
    ]


def _scale(
    e: Emitter, front: Gather, slots: Mapping[str, Value], pixels: list[Value], weights: list[Value], code: Value
) -> Value:
    """Emit 1 / σ of level 0's input."""
    b = e.builder
    ones = bits(e, code)
    total, square = (b.fadd(ones, e.load(FLOAT, slots["cell_moments"], n * WORD)) for n in range(2))
    for pixel, weight in zip(pixels, weights, strict=True):
        mean, power = (e.load(FLOAT, slots["moments"], e.times(pixel, 2 * WORD), n * WORD) for n in range(2))
        total = b.fadd(total, b.fmul(weight, mean))
        square = b.fadd(square, b.fmul(b.fmul(weight, weight), power))
    return inverse_deviation(e, front.norm, total, square)
