"""Sums of a statistics pass: k̂ and v̂ of every query, Σ k̂ᵀv̂ of each head, Σ k̂ and Σ v̂ (decoding.md §3c)."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from hiif_engines.native.emit import FLOAT, I64, POINTER, WORD, Emitter, Value, number
from hiif_engines.native.layer import ScratchLayout
from hiif_engines.native.products.precision import FP32
from hiif_engines.native.products.product import Matrix, sums

HEAD = 16
"""Values of a head."""


@dataclass(frozen=True)
class KeyValueSums:
    """Sizes of a statistics pass's sums."""

    inputs: int
    """Number of values in an input row."""
    heads: int
    """Number of heads of keys, and of values."""
    epsilon: float
    """Value that is added to a head's variance, or to its deviation where that is unbiased."""
    is_unbiased: bool = False
    """Whether heads are divided by the unbiased deviation plus epsilon, as SRNO's; HIIF has LayerNorms."""

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
    e = Emitter(scratch.target, module, name, [POINTER, I64, POINTER, POINTER, POINTER])
    memory, count, weights, bias, sums_pointer = e.arguments
    matrix = Matrix(FP32, kind.inputs, kind.outputs, weights, bias)
    with e.loop(count, e.target.rows) as tile:
        rows = e.at(memory, scratch.block, e.times(tile.index, scratch.row))
        _emit_keys_and_values(e, kind, matrix, rows, scratch, memory)
        here = e.least(e.builder.sub(count, tile.index), number(e.target.rows))
        _emit_addition(e, kind, memory, here, sums_pointer)
    e.finish()
    return e.function


def _emit_keys_and_values(
    e: Emitter, kind: KeyValueSums, matrix: Matrix, rows: Value, scratch: ScratchLayout, target: Value
) -> None:
    """Emit [rows, outputs] of k̂ and v̂ of a tile at `target`, which is the scratch's first part."""
    b = e.builder
    with e.loop(kind.outputs, e.target.panel(kind.outputs)) as panel:
        offset = e.times(panel.index, WORD)
        heads: dict[int, dict[int, list[Value]]] = {}
        for _, v, value in sums(e, matrix, rows, scratch.row, panel.index, target):
            value = b.fadd(value, e.load(e.floats, matrix.vectors, offset, v * WORD))
            heads.setdefault(v // HEAD, {}).setdefault(v, []).append(value)
        for head in heads.values():
            scales = [_scale(e, kind, squares) for squares in e.totals(_squares(e, list(head.values())))]
            for v, values in head.items():
                for r, value in enumerate(values):
                    scale = e.lane(scales[r // e.lanes], r % e.lanes)
                    e.store(b.fmul(value, scale), target, offset, WORD * (r * kind.outputs + v))


def _squares(e: Emitter, vectors: list[list[Value]]) -> list[Value]:
    """Emit for each row the sum of the squares of its vectors, lane by lane."""
    first, *others = vectors
    found = [e.builder.fmul(value, value) for value in first]
    for values in others:
        found = [e.fma(value, value, square) for value, square in zip(values, found, strict=True)]
    return found


def _scale(e: Emitter, kind: KeyValueSums, squares: Value) -> Value:
    """Emit 1 / σ of heads with these sums of squares, whose mean is 0."""
    if kind.is_unbiased:
        deviation = e.call("llvm.sqrt", e.floats, e.builder.fmul(squares, e.reals(1 / (HEAD - 1))))
        return e.builder.fdiv(e.reals(1.0), e.builder.fadd(deviation, e.reals(kind.epsilon)))
    return e.inverse_root(e.fma(squares, e.reals(1 / HEAD), e.reals(kind.epsilon)))


def _emit_addition(e: Emitter, kind: KeyValueSums, both: Value, count: Value, sums_pointer: Value) -> None:
    """Emit the sums over a tile's queries, added to the totals."""
    # Half of the registers hold sums of products.
    step = e.target.registers // 2 // (HEAD // e.lanes)
    with e.loop(kind.heads) as head:
        for first in range(0, HEAD, step):
            _emit_products(e, kind, head.index, range(first, first + step), both, count, sums_pointer)


def _emit_products(
    e: Emitter, kind: KeyValueSums, head: Value, keys: range, both: Value, count: Value, sums_pointer: Value
) -> None:
    """Emit Σ k̂ᵀv̂ of some of a head's keys; with the first of them also Σ k̂ and Σ v̂ of the head."""
    b, head_bytes, has_ends = e.builder, HEAD * WORD, 0 in keys
    parts = range(0, head_bytes, e.lanes * WORD)
    key = e.at(both, e.times(head, head_bytes))
    value = e.at(key, kind.heads * head_bytes)
    with e.loop(count, 1, [e.reals(0.0)] * (len(parts) * (len(keys) + 2 * has_ends))) as row:
        offset = e.times(row.index, kind.outputs * WORD)
        values = [e.load(e.floats, value, offset, n) for n in parts]
        spread = [e.spread(e.load(FLOAT, key, offset, n * WORD)) for n in keys]
        ends = [*(e.load(e.floats, key, offset, n) for n in parts), *values] if has_ends else []
        pairs = [(k, v) for k in spread for v in values]
        outer = [e.fma(k, v, total) for (k, v), total in zip(pairs, row.values[: len(pairs)], strict=True)]
        rest = [b.fadd(total, end) for total, end in zip(row.values[len(pairs) :], ends, strict=True)]
        row.values = [*outer, *rest]
    own = e.at(sums_pointer, e.times(head, HEAD * head_bytes))
    means = e.at(sums_pointer, kind.heads * HEAD * head_bytes, e.times(head, head_bytes))
    places = [e.at(own, k * head_bytes + n) for k in keys for n in parts]
    places += [e.at(means, side + n) for side in (0, kind.heads * head_bytes) for n in parts if has_ends]
    for total, place in zip(row.values, places, strict=True):
        e.store(b.fadd(total, e.load(e.floats, place)), place)
