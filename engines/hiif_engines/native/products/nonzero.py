"""Inputs that are 0 in every row of a tile, as behind a ReLU: a product leaves them out, which changes no bit where
weights are finite."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from hiif_engines.native.emit import I32, I64, WORD, Emitter, Value, number

GROUP = 4
"""Inputs per iteration of the loop that lists them."""
PLACE = 2 * WORD
"""Bytes of a place."""


@dataclass(frozen=True)
class Nonzero:
    """The inputs of a tile that are not 0 in all of its rows, ascending; or one that is 0, where all are."""

    places: Value
    """Pointer to a place for each of them: the byte offsets of the input in a row, and of its weights in a panel. They
    are two numbers, because one computed from the other costs a register that the sums need."""
    count: Value
    """How many there are."""

    def place(self, e: Emitter, n: Value) -> tuple[Value, Value]:
        """Emit the offsets in a row and in a panel of the n-th of them."""
        at = e.times(n, PLACE)
        inside_row, inside_panel = (e.builder.zext(e.load(I32, self.places, at, side), I64) for side in (0, WORD))
        return inside_row, inside_panel


def emit_nonzero(
    e: Emitter, inputs: int, panel: int, source: Value, target: Value, row_bytes: int, unions: Value, places: Value
) -> Nonzero:
    """Copy a tile's rows and list their inputs at `places`. `unions` has room for a row, `places` for two."""
    b = e.builder
    with e.loop(inputs * WORD, e.lanes * WORD) as channel:
        union = e.integers(0)
        for r in range(e.target.rows):
            value = e.load(e.words, source, r * row_bytes, channel.index)
            e.store(value, target, r * row_bytes, channel.index)
            union = b.or_(union, value)
        e.store(union, unions, channel.index)
    # Little-endian: a place is one number of 64 bits. Each is written, and kept if its input is not 0.
    step = WORD + (WORD * panel << 32)
    with e.loop(inputs, GROUP, [number(0)]) as group:
        first = e.times(group.index, step)
        for n in range(GROUP):
            union = e.load(I32, unions, e.times(group.index, WORD), n * WORD)
            e.store(b.add(first, number(n * step)), places, e.times(group.values[0], PLACE))
            is_used = b.icmp_unsigned("!=", union, ir.Constant(I32, 0))
            group.values[0] = b.add(group.values[0], b.zext(is_used, I64))
    count = group.values[0]
    return Nonzero(places, b.select(b.icmp_unsigned("==", count, number(0)), number(1), count))
