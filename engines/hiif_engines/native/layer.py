"""A layer of the decoder for a block of queries: x → second(GELU(first(x))), without memory in between.

A tile of rows goes through the products while it is in the first-level cache; the matrices stay in the second-level
cache for the whole block. Operations after a product are applied to its sums before they leave the registers.

Between two levels only the second level's LayerNorm and first product read x. There the second product of one level and
the first one of the next are composed into one, and the LayerNorm's scale comes from a triangular product, which gives
numbers with the same sum of squares (`compose.py`): three quarters of the multiplications.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llvmlite import ir

from hiif_engines.native.emit import FLOAT, I32, I64, POINTER, WORD, Emitter, Value, real
from hiif_engines.native.functions.gelu import gelu
from hiif_engines.native.products.nonzero import Nonzero, emit_nonzero
from hiif_engines.native.products.precision import FACTORS, FP32, SCALE, TOTAL, MatrixPrecision
from hiif_engines.native.products.product import Matrix, sums
from hiif_engines.native.target import Target

Activation = Literal["gelu", "relu"]


@dataclass(frozen=True)
class Norm:
    """A LayerNorm over [x | two bits], its mean removed from the weights (decoding.md §3d)."""

    inputs: int
    """Number of values that it normalises, the bits included."""
    epsilon: float
    """Value that is added to the variance."""


@dataclass(frozen=True)
class Layer:
    """Sizes and precisions of one layer."""

    inputs: int
    """Number of values in an input row."""
    hidden: int
    """Number of values between the two products; 0 where there is the second one alone."""
    outputs: int
    """Number of values in an output row; three colours are padded to a vector. 0 where there is the first product
    alone."""
    norm: Norm | None
    """LayerNorm after the first product; None for an attention block, or without a first product."""
    is_added: bool
    """Whether the input row is added to the output."""
    first: MatrixPrecision
    """Precision of the first product."""
    second: MatrixPrecision
    """Precision of the second product."""
    factored: int = 0
    """Number of values that the LayerNorm normalises, without the bits, where a triangular product is used; else 0."""
    activation: Activation = "gelu"
    """What follows the first product."""
    is_sparse: bool = False
    """Whether inputs that are 0 in a whole tile are left out of the first product. fp32, without a second product."""

    @property
    def output_width(self) -> int:
        """Number of values in an output row."""
        return self.outputs or self.hidden

    def macs(self, target: Target) -> int:
        """Multiplications per query of the layer."""
        products = self.inputs * self.hidden + (self.hidden or self.inputs) * self.outputs
        return products + triangle_macs(target, self.inputs, self.factored)


@dataclass(frozen=True)
class ScratchLayout:
    """Layout of a thread's memory: byte offsets of a tile's values, and after them the block's rows."""

    target: Target
    width: int
    """Number of values in the widest row."""

    @property
    def row(self) -> int:
        """Bytes of a row of any kind."""
        return WORD * self.width

    @property
    def operand(self) -> int:
        """Offset of the tile's rows before the first product."""
        return 0

    @property
    def hidden(self) -> int:
        """Offset of the tile's rows before the second product."""
        return self.target.rows * self.row

    @property
    def values(self) -> int:
        """Offset of those rows in float32, where they are converted to another precision as a whole."""
        return 2 * self.target.rows * self.row

    @property
    def factors(self) -> int:
        """Offset of the tile's factors."""
        return 3 * self.target.rows * self.row

    @property
    def squares(self) -> int:
        """Offset of a sum of squares for each of the tile's rows."""
        return self.factors + WORD * FACTORS * self.target.rows

    @property
    def places(self) -> int:
        """Offset of the places of a tile's inputs (`products/nonzero.py`)."""
        return self.squares + WORD * self.target.padded(self.target.rows)

    @property
    def sums(self) -> int:
        """Offset of a panel's sums of products, where the processor's tiles leave them."""
        return self.places + 2 * self.row

    @property
    def block(self) -> int:
        """Offset of the block's rows."""
        panel = self.target.vectors * self.target.lanes if self.target.tiles else 0
        return self.sums + WORD * self.target.rows * panel

    def size(self, block: int) -> int:
        """Return the bytes for a block of that many rows, a multiple of a tile's."""
        return self.block + block * self.row


def triangle_macs(target: Target, inputs: int, outputs: int) -> int:
    """Return the multiplications per query with a lower triangular matrix, whose zeros are skipped panel by panel."""
    step = target.panel(outputs)
    return sum((inputs - first) * step for first in range(0, outputs, step))


def emit_layer(module: ir.Module, name: str, layer: Layer, scratch: ScratchLayout) -> ir.Function:
    """Write a function of (scratch, the block's codes, its tiles; matrix and vectors of three products; mean vector).

    The products are the first, the second and the triangular one.
    """
    e = Emitter(scratch.target, module, name, [POINTER, POINTER, I64, *[POINTER] * 7])
    memory, all_codes, tiles, *given, mean = e.arguments
    first = Matrix(layer.first, layer.inputs, layer.hidden, *given[:2])
    second = Matrix(layer.second, layer.hidden or layer.inputs, layer.outputs, *given[2:4])
    triangle = Matrix(layer.first, layer.inputs, layer.factored, *given[4:])
    tile = TileWriter(e, layer, scratch, memory, mean)
    with e.loop(tiles) as turn:
        x = e.at(memory, scratch.block, e.times(turn.index, scratch.target.rows * scratch.row))
        codes = e.at(all_codes, e.times(turn.index, scratch.target.rows * WORD))
        if layer.is_sparse:
            tile.sparse_operands(x)
            rows = e.at(memory, scratch.operand)
        else:
            rows = tile.operands(layer.first, layer.inputs, x, scratch.operand, codes)
        if layer.factored:
            tile.scale(triangle, rows, codes)
        if layer.hidden:
            rows = tile.hidden(first, rows, x, codes)
        if layer.outputs:
            tile.second_product(second, rows, x)
    e.finish()
    return e.function


class TileWriter:
    """Writes the code for one tile."""

    def __init__(self, e: Emitter, layer: Layer, scratch: ScratchLayout, memory: Value, mean: Value) -> None:
        self.e, self.layer, self.scratch, self.memory, self.mean = e, layer, scratch, memory, mean
        self.factors = e.at(memory, scratch.factors)
        self.nonzero: Nonzero | None = None

    def operands(self, precision: MatrixPrecision, inputs: int, x: Value, place: int, codes: Value | None) -> Value:
        """Emit rows of float32 as operands, at `place` of the scratch; with codes, also what their LayerNorm needs."""
        e, target = self.e, self.e.at(self.memory, place)
        # A layer of one product writes over the rows it reads.
        is_kept = precision.inputs > 1 or not self.layer.hidden or not self.layer.outputs
        has_norm = codes is not None and self.layer.norm is not None
        if not has_norm and not is_kept:
            return x
        with e.loop(e.target.rows) as row:
            offset = e.times(row.index, self.scratch.row)
            factors = e.at(self.factors, e.times(row.index, WORD * FACTORS))
            values = [e.load(e.floats, x, offset, n * WORD) for n in range(0, inputs, e.lanes)]
            if has_norm and self.layer.factored:
                e.store(_dot(e, values, self.mean), factors, WORD * TOTAL)
            elif has_norm:
                total, square = _moments(e, values)
                self._keep_scale(row.index, codes, total, square)
            if is_kept:
                precision.keep(e, values, e.at(target, offset), factors)
        return target if is_kept else x

    def sparse_operands(self, x: Value) -> None:
        """Emit rows as operands, and which of their inputs are not 0."""
        e, scratch, layer = self.e, self.scratch, self.layer
        # Without a second product its operands have no use.
        offsets = (scratch.operand, scratch.hidden, scratch.places)
        operand, unions, places = (e.at(self.memory, offset) for offset in offsets)
        panel = e.target.panel(layer.hidden)
        self.nonzero = emit_nonzero(e, layer.inputs, panel, x, operand, scratch.row, unions, places)

    def scale(self, matrix: Matrix, rows: Value, codes: Value) -> None:
        """Emit LayerNorm's scale of rows that are not built, from the triangular product and the stored sum."""
        e, b = self.e, self.e.builder
        with e.loop(matrix.outputs, e.target.panel(matrix.outputs), [e.reals(0.0)] * e.target.rows) as panel:
            # Above the diagonal there are zeros.
            for r, v, value in self._sums(matrix, rows, panel.index, panel.index):
                bias = e.load(e.floats, matrix.vectors, e.times(panel.index, WORD), v * WORD)
                value = b.fadd(value, bias)
                panel.values[r] = e.fma(value, value, panel.values[r])
        squares = e.at(self.memory, self.scratch.squares)
        for n, totals in enumerate(e.totals(panel.values)):
            e.store(totals, squares, n * e.lanes * WORD)
        with e.loop(e.target.rows) as row:
            total = e.load(FLOAT, self.factors, e.times(row.index, WORD * FACTORS), WORD * TOTAL)
            rest = e.load(FLOAT, squares, e.times(row.index, WORD))
            square = e.fma(b.fmul(total, total), real(1 / matrix.outputs), rest)
            self._keep_scale(row.index, codes, total, square)

    def _keep_scale(self, row: Value, codes: Value, total: Value, square: Value) -> None:
        """Emit 1 / σ of [x | bits], given Σ and Σ² of x."""
        e, norm = self.e, self.layer.norm
        assert norm is not None
        ones = bits(e, e.load(I32, codes, e.times(row, WORD)))
        scale = inverse_deviation(e, norm, e.builder.fadd(total, ones), e.builder.fadd(square, ones))
        e.store(scale, self.factors, e.times(row, WORD * FACTORS), WORD * SCALE)

    def hidden(self, matrix: Matrix, rows: Value, x: Value, codes: Value) -> Value:
        """Emit the first product, its table of bits, LayerNorm and activation; return the second product's operands.

        The result overwrites `x` where there is no second product.
        """
        e, is_all = self.e, not self.layer.outputs
        second = FP32 if is_all else self.layer.second
        target = x if is_all else e.at(self.memory, self.scratch.values if second.by_row else self.scratch.hidden)
        with e.loop(matrix.outputs, e.target.panel(matrix.outputs)) as panel:
            for r, v, value in self._sums(matrix, rows, panel.index):
                vectors = e.at(matrix.vectors, e.times(panel.index, WORD), v * WORD)
                value = self._activated(matrix, self._normalised(matrix, value, r, vectors, codes))
                size = WORD if second.by_row else second.value_bytes
                e.store(second.narrowed(e, value), target, r * self.scratch.row, e.times(panel.index, size), v * size)
        if second.by_row:
            return self.operands(second, matrix.outputs, target, self.scratch.hidden, None)
        if not is_all:
            for r in range(e.target.rows):
                second.fill(e, matrix.outputs, e.at(target, r * self.scratch.row))
        return target

    def second_product(self, matrix: Matrix, rows: Value, x: Value) -> None:
        """Emit the second product, replacing the input rows or added to them."""
        e = self.e
        with e.loop(matrix.outputs, e.target.panel(matrix.outputs)) as panel:
            for r, v, value in self._sums(matrix, rows, panel.index):
                offset = e.times(panel.index, WORD)
                value = e.builder.fadd(value, e.load(e.floats, matrix.vectors, offset, v * WORD))
                target = e.at(x, r * self.scratch.row, offset, v * WORD)
                e.store(e.builder.fadd(value, e.load(e.floats, target)) if self.layer.is_added else value, target)

    def _normalised(self, matrix: Matrix, value: Value, r: int, vectors: Value, codes: Value) -> Value:
        """Emit (value + the bits' row of the table) · LayerNorm's scale + bias; for attention the bias alone."""
        e, row = self.e, matrix.outputs * WORD
        bias = e.load(e.floats, vectors)
        if self.layer.norm is None:
            return e.builder.fadd(value, bias)
        code = e.builder.zext(e.load(I32, codes, r * WORD), I64)
        table = e.load(e.floats, vectors, (1 + matrix.precision.constants) * row, e.times(code, row))
        scale = e.spread(e.load(FLOAT, self.factors, WORD * (FACTORS * r + SCALE)))
        return e.fma(e.builder.fadd(value, table), scale, bias)

    def _activated(self, matrix: Matrix, value: Value) -> Value:
        if self.layer.activation == "relu":
            return self.e.relu(value)
        return gelu(self.e, value, matrix.precision.normal)

    def _sums(
        self, matrix: Matrix, rows: Value, first: Value, start: Value | int = 0
    ) -> Iterator[tuple[int, int, Value]]:
        room = self.e.at(self.memory, self.scratch.sums)
        return sums(self.e, matrix, rows, self.scratch.row, first, self.factors, start, self.nonzero, room)


def _moments(e: Emitter, values: list[Value]) -> tuple[Value, Value]:
    """Emit Σ and Σ² of a row."""
    total = square = e.reals(0.0)
    for value in values:
        total, square = e.builder.fadd(total, value), e.fma(value, value, square)
    return e.total(total), e.total(square)


def _dot(e: Emitter, values: list[Value], other: Value) -> Value:
    """Emit the dot product of a row with a vector, plus the value after that vector."""
    total = e.reals(0.0)
    for n, value in enumerate(values):
        total = e.fma(value, e.load(e.floats, other, n * e.lanes * WORD), total)
    return e.builder.fadd(e.total(total), e.load(FLOAT, other, len(values) * e.lanes * WORD))


def bits(e: Emitter, code: Value) -> Value:
    """Emit how many of the two bits are set: their sum, and that of their squares."""
    b, one = e.builder, ir.Constant(I32, 1)
    return b.uitofp(b.add(b.and_(code, one), b.lshr(code, one)), FLOAT)


def inverse_deviation(e: Emitter, norm: Norm, total: Value, square: Value) -> Value:
    """Emit 1 / σ, given Σ and Σ²."""
    b = e.builder
    mean, power = (b.fdiv(value, real(norm.inputs)) for value in (total, square))
    return e.inverse_root(b.fadd(b.fsub(power, b.fmul(mean, mean)), real(norm.epsilon)))
