"""SRNO's state before its first attention block: four map rows of a query, weighted by area, and a product of its
position (design/decoders.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hiif_engines.native.emit import WORD, Emitter, Value
from hiif_engines.native.fronts.corners import RELATIVES
from hiif_engines.native.fronts.gather import DISTANCES, MAPS, TAPS, emit_corners, emit_pairs, emit_place

BLENDED = (*MAPS, *TAPS, *DISTANCES, *RELATIVES, "rows", "columns", "level_0")
"""Arguments: the graph's inputs; number of rows and columns; and `level_0`."""


@dataclass(frozen=True)
class Blend:
    """Rows Σ weight · map + Σ position · weights + constant. `level_0` is [5, width]: weights of the position relative
    to the upper and the lower row, to the left and the right column, and the constant."""

    width: int
    """Number of values in a row."""


def emit_blend(
    e: Emitter, front: Blend, slots: Mapping[str, Value], first: Value, count: Value, rows: Value, row_bytes: int
) -> None:
    """Write queries first, …, first + count − 1 of rows × columns to `rows`, in float32."""
    size = front.width * WORD
    with e.loop(count) as turn:
        place = emit_place(e, slots, e.builder.add(first, turn.index))
        pixels, areas = emit_corners(e, slots, place)
        positions = [value for pair in emit_pairs(e, slots, place, RELATIVES) for value in pair]
        sources = [e.at(slots["level_0"], n * size) for n in range(len(positions))]
        sources += [e.at(slots[name], e.times(pixel, size)) for name, pixel in zip(MAPS, pixels, strict=True)]
        factors = [e.spread(value) for value in (*positions, *areas)]
        target = e.at(rows, e.times(turn.index, row_bytes))
        with e.loop(size, e.lanes * WORD) as channel:
            value = e.load(e.floats, slots["level_0"], len(positions) * size, channel.index)
            for source, factor in zip(sources, factors, strict=True):
                value = e.fma(e.load(e.floats, source, channel.index), factor, value)
            e.store(value, target, channel.index)
