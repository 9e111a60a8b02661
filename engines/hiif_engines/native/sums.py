"""Sums of a statistics pass: k̂ and v̂ of every query, Σ k̂ᵀv̂ of each head, Σ k̂ and Σ v̂ (decoding.md §3c)."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from hiif_engines.native.emit import FLOAT, FLOATS, I64, LANES, POINTER, WORD, Emitter, Value, number, reals
from hiif_engines.native.layer import ROWS, Matrix, ScratchLayout, sums
from hiif_engines.native.precision import FP32

HEAD = LANES
"""Values of a head: one vector."""


@dataclass(frozen=True)
class KeyValueSums:
    """Sizes of a statistics pass's sums."""

    inputs: int
    """Number of values in an input row."""
    heads: int
    """Number of heads of keys, and of values."""
    epsilon: float
    """Value that is added to a head's variance."""

    @property
    def outputs(self) -> int:
        """Number of values in a row's keys and values."""
        return 2 * self.heads * HEAD

    @property
    def macs(self) -> int:
        """Multiplications per query of the sums."""
        return self.inputs * self.outputs + self.heads * HEAD * HEAD

    @property
    def size(self) -> int:
        """Number of float32 sums: [heads, 16, 16], then [heads, 16] of keys and of values."""
        return self.heads * HEAD * (HEAD + 2)


def emit_sums(module: ir.Module, name: str, kind: KeyValueSums, scratch: ScratchLayout) -> ir.Function:
    """Write a function of (scratch, number of queries, projection, its bias, sums), which adds to the sums."""
    e = Emitter(module, name, [POINTER, I64, POINTER, POINTER, POINTER])
    memory, count, weights, bias, sums_pointer = e.arguments
    matrix = Matrix(FP32, kind.inputs, kind.outputs, weights, bias)
    with e.loop(count, ROWS) as tile:
        rows = e.at(memory, scratch.block, e.times(tile.index, scratch.row))
        _emit_keys_and_values(e, kind, matrix, rows, scratch, memory)
        left = e.builder.sub(count, tile.index)
        here = e.builder.select(e.builder.icmp_unsigned("<", left, number(ROWS)), left, number(ROWS))
        _emit_addition(e, kind, memory, here, sums_pointer)
    e.finish()
    return e.function


def _emit_keys_and_values(
    e: Emitter, kind: KeyValueSums, matrix: Matrix, rows: Value, scratch: ScratchLayout, target: Value
) -> None:
    """Emit [ROWS, outputs] of k̂ and v̂ at `target`, which is the scratch's first part."""
    b = e.builder
    with e.loop(kind.outputs, matrix.panel) as panel:
        offset = e.times(panel.index, WORD)
        found: dict[int, list[Value]] = {}
        for _, v, value in sums(e, matrix, rows, scratch.row, panel.index, target):
            found.setdefault(v, []).append(b.fadd(value, e.load(FLOATS, matrix.vectors, offset, v * WORD)))
        for v, values in found.items():
            squares = [b.fmul(value, value) for value in values] + [reals(0.0)] * (LANES - ROWS)
            variance = e.fma(e.totals(squares), reals(1 / HEAD), reals(kind.epsilon))
            scale = e.inverse_root(variance)
            for r, value in enumerate(values):
                e.store(b.fmul(value, e.lane(scale, r)), target, offset, WORD * (r * kind.outputs + v))


def _emit_addition(e: Emitter, kind: KeyValueSums, both: Value, count: Value, sums_pointer: Value) -> None:
    """Emit the sums over a tile's queries, added to the totals."""
    b, head_bytes = e.builder, HEAD * WORD
    with e.loop(kind.heads) as head:
        key = e.at(both, e.times(head.index, head_bytes))
        value = e.at(key, kind.heads * head_bytes)
        with e.loop(count, 1, [reals(0.0)] * (HEAD + 2)) as row:
            offset = e.times(row.index, kind.outputs * WORD)
            v = e.load(FLOATS, value, offset)
            keys = [e.spread(e.load(FLOAT, key, offset, n * WORD)) for n in range(HEAD)]
            *outer, key_sum, value_sum = row.values
            outer = [e.fma(k, v, part) for k, part in zip(keys, outer, strict=True)]
            row.values = [*outer, b.fadd(key_sum, e.load(FLOATS, key, offset)), b.fadd(value_sum, v)]
        *outer, key_sum, value_sum = row.values
        own = e.at(sums_pointer, e.times(head.index, HEAD * head_bytes))
        means = e.at(sums_pointer, kind.heads * HEAD * head_bytes, e.times(head.index, head_bytes))
        places = [e.at(own, n * head_bytes) for n in range(HEAD)]
        for part, place in zip(
            [*outer, key_sum, value_sum], [*places, means, e.at(means, kind.heads * head_bytes)], strict=True
        ):
            e.store(b.fadd(part, e.load(FLOATS, place)), place)
