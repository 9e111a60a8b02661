"""MetaSR's colours: the filter of the query's place in its source pixel, applied to that pixel's features
(design/decoders.md). The products of the features with the filter of every hidden unit are a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hiif_engines.native.emit import COLOURS, FLOAT, I64, WORD, Emitter, Value
from hiif_engines.native.fronts.gather import TAP, TAPS, emit_place

LOCALS = ("row_local", "column_local")
FILTERED = ("map_0", *TAPS, *LOCALS, "columns", "level_0")
"""Arguments: the graph's inputs; number of columns; and `level_0`."""


@dataclass(frozen=True)
class Filters:
    """Colours Σ map · h + a last value of the map, with the hidden layer h = relu(row · weight + column · weight +
    constant). `level_0` is [3, width]: weights of the row, of the column, and the constant."""

    width: int
    """Number of hidden units."""

    @property
    def map_width(self) -> int:
        """Number of values in the map's row: for each colour one of every hidden unit, and one that is added."""
        return COLOURS * (self.width + 1)


def emit_filtered(
    e: Emitter, front: Filters, slots: Mapping[str, Value], first: Value, count: Value, rows: Value, row_bytes: int
) -> None:
    """Write colours of the queries first, …, first + count − 1 to the first values of `rows`, in float32."""
    b, size = e.builder, front.width * WORD
    with e.loop(count) as turn:
        place = emit_place(e, slots, b.add(first, turn.index))
        down, across = (e.load(I64, slots[name], e.times(n, TAP)) for name, n in zip(TAPS, place, strict=True))
        source = e.at(slots["map_0"], e.times(b.add(down, across), front.map_width * WORD))
        local = [e.load(FLOAT, slots[name], e.times(n, WORD)) for name, n in zip(LOCALS, place, strict=True)]
        row, column = (e.spread(value) for value in local)
        with e.loop(size, e.lanes * WORD, [e.reals(0.0)] * COLOURS) as channel:
            weights = [e.load(e.floats, slots["level_0"], n * size, channel.index) for n in range(3)]
            hidden = e.relu(e.fma(row, weights[0], e.fma(column, weights[1], weights[2])))
            for n, total in enumerate(channel.values):
                product = e.load(e.floats, source, n * (size + WORD), channel.index)
                channel.values[n] = e.fma(product, hidden, total)
        for n, total in enumerate(channel.values):
            value = b.fadd(e.total(total), e.load(FLOAT, source, n * (size + WORD) + size))
            e.store(value, rows, e.times(turn.index, row_bytes), n * WORD)
