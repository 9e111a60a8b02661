"""A network that predicts from each of the four pixels around a query, as those of LIIF and LTE: a row for each corner,
and their average by area (design/decoders.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hiif_engines.native.emit import WORD, Emitter, Value
from hiif_engines.native.fronts.gather import DISTANCES, TAPS, emit_corners, emit_pairs, emit_place
from hiif_engines.native.functions.sincos import sine_and_cosine

CORNERS = 4
"""Rows per query. Those of one corner lie together, because neighbours' rows have the same zeros (`nonzero.py`)."""
TILE_ROWS = 6
"""Rows per tile: fewer rows have more zeros in common, and more of them fewer loads of weights. Of the inputs of a
trained LIIF 0.43 are not 0 in a row, 0.57 in 6 neighbours and 0.64 in 12; AVX-512 takes 8.6 and 9.5 µs per query."""
RELATIVES = ("row_relative", "column_relative")
CORNERED = ("map_0", "map_1", *TAPS, *DISTANCES, *RELATIVES, "rows", "columns", "level_0")
"""Arguments: the graph's inputs; number of rows and columns; and `level_0`."""


@dataclass(frozen=True)
class Corners:
    """Rows relu(map + row · weight + column · weight + constant) of the four corners, as LIIF's. `level_0` is
    [3, width]: weights of the row, of the column, and the constant."""

    width: int
    """Number of values in a row."""


@dataclass(frozen=True)
class Waves(Corners):
    """Rows amplitude · [cos | sin] of row · frequency + column · frequency + phase, as LTE's. The second map has
    frequencies of the row and then of the column; `level_0` is the phase, [width / 2]."""


def emit_corner_rows(
    e: Emitter, front: Corners, slots: Mapping[str, Value], first: Value, count: Value, rows: Value, row_bytes: int,
    corner: Value,
) -> None:  # fmt: skip
    """Write four rows for each of the queries first, …, first + count − 1 to `rows`, in float32, `corner` bytes from
    one corner to the next."""
    size = front.width * WORD
    with e.loop(count) as turn:
        place = emit_place(e, slots, e.builder.add(first, turn.index))
        pixels, _ = emit_corners(e, slots, place)
        sources = [e.at(slots["map_0"], e.times(pixel, size)) for pixel in pixels]
        downs, acrosses = ([e.spread(x) for x in pair] for pair in emit_pairs(e, slots, place, RELATIVES))
        own = e.at(rows, e.times(turn.index, row_bytes))
        targets = [e.at(own, e.times(corner, k)) for k in range(CORNERS)]
        with e.loop(size, e.lanes * WORD) as channel:
            row, column, constant = (e.load(e.floats, slots["level_0"], n * size, channel.index) for n in range(3))
            columns = [e.fma(across, column, constant) for across in acrosses]
            places = [e.fma(down, row, other) for down in downs for other in columns]
            for source, value, target in zip(sources, places, targets, strict=True):
                value = e.builder.fadd(e.load(e.floats, source, channel.index), value)
                e.store(e.relu(value), target, channel.index)


def emit_wave_rows(
    e: Emitter, front: Waves, slots: Mapping[str, Value], first: Value, count: Value, rows: Value, row_bytes: int,
    corner: Value,
) -> None:  # fmt: skip
    """As `emit_corner_rows`, of waves."""
    b, half = e.builder, front.width // 2 * WORD
    with e.loop(count) as turn:
        place = emit_place(e, slots, b.add(first, turn.index))
        pixels, _ = emit_corners(e, slots, place)
        downs, acrosses = ([e.spread(x) for x in pair] for pair in emit_pairs(e, slots, place, RELATIVES))
        own = e.at(rows, e.times(turn.index, row_bytes))
        for k, (down, across) in enumerate((down, across) for down in downs for across in acrosses):
            amplitudes, frequencies = (e.at(slots[f"map_{n}"], e.times(pixels[k], 2 * half)) for n in range(2))
            target = e.at(own, e.times(corner, k))
            with e.loop(half, e.lanes * WORD) as channel:
                row, column = (e.load(e.floats, frequencies, side, channel.index) for side in (0, half))
                phase = e.load(e.floats, slots["level_0"], channel.index)
                sine, cosine = sine_and_cosine(e, b.fadd(e.fma(row, down, b.fmul(column, across)), phase))
                for side, value in ((0, cosine), (half, sine)):
                    amplitude = e.load(e.floats, amplitudes, side, channel.index)
                    e.store(b.fmul(amplitude, value), target, side, channel.index)


def emit_average(
    e: Emitter, width: int, slots: Mapping[str, Value], first: Value, count: Value, rows: Value, row_bytes: int,
    corner: Value,
) -> None:  # fmt: skip
    """Write the average of each query's four rows, weighted by area, over that of the first corner."""
    with e.loop(count) as turn:
        _, weights = emit_corners(e, slots, emit_place(e, slots, e.builder.add(first, turn.index)))
        weights = [e.spread(weight) for weight in weights]
        own = e.at(rows, e.times(turn.index, row_bytes))
        sources = [e.at(own, e.times(corner, k)) for k in range(CORNERS)]
        with e.loop(width * WORD, e.lanes * WORD) as channel:
            value = e.reals(0.0)
            for source, weight in zip(sources, weights, strict=True):
                value = e.fma(e.load(e.floats, source, channel.index), weight, value)
            e.store(value, own, channel.index)
