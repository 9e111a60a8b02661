"""A layer of the decoder for a block of queries: x → second(GELU(first(x))), all between on the chip.

A tile of rows goes through the products while it lies in the first cache; the matrices stay in the second one for the
whole block. What follows a product is done on its sums before they leave the registers.

Between two levels nothing but the second level's LayerNorm and first product reads x. There the second product of one
level and the first one of the next are composed to one, and the LayerNorm's scale comes from a triangular product,
which gives numbers of the same sum of squares (`compose.py`): three quarters of the multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from hiif_engines.native.arithmetic import FACTORS, FP32, SCALE, TOTAL, ComputePrecision
from hiif_engines.native.emit import FLOAT, FLOATS, I32, I64, LANES, POINTER, WORD, Emitter, Value, number, real, reals
from hiif_engines.native.gelu import gelu

ROWS = 12
"""Of a tile: with two vectors of outputs that is 24 of 32 registers in sums."""
PANEL = 2 * LANES
"""Outputs at once, where there are so many."""
UNROLL = 2
"""Elements of a product in one turn of its loop."""


@dataclass(frozen=True)
class Norm:
    """A LayerNorm over [x | two bits], its mean taken out of the weights (decoding.md §3d)."""

    inputs: int
    """Values that it is over, the bits included."""
    epsilon: float
    """Added to the variance."""


@dataclass(frozen=True)
class Layer:
    """Sizes and kind."""

    inputs: int
    """Values of a row in front."""
    hidden: int
    """Values between the two products; 0 where there is the second one alone."""
    outputs: int
    """Values of a row behind; three colours are padded to a vector. 0 where there is the first one alone."""
    norm: Norm | None
    """Behind the first product; None: an attention block, or no first product."""
    is_added: bool
    """Whether the row in front is added to what comes out."""
    first: ComputePrecision
    """Of the first product."""
    second: ComputePrecision
    """Of the second one."""
    factored: int = 0
    """Values that the LayerNorm is over, the bits left out, where a triangular product tells of them; else 0."""

    @property
    def answer(self) -> int:
        """Values of a row behind."""
        return self.outputs or self.hidden

    @property
    def macs(self) -> int:
        """Multiplications of a query."""
        products = self.inputs * self.hidden + (self.hidden or self.inputs) * self.outputs
        return products + triangle_macs(self.inputs, self.factored)


@dataclass(frozen=True)
class Scratch:
    """A thread's memory: where a tile's values lie, in bytes, and behind them the block's rows."""

    width: int
    """Values of the widest row."""

    @property
    def row(self) -> int:
        """Bytes of a row, of whatever it is."""
        return WORD * self.width

    @property
    def operand(self) -> int:
        """The tile's rows in front of the first product."""
        return 0

    @property
    def hidden(self) -> int:
        """The tile's rows in front of the second product."""
        return ROWS * self.row

    @property
    def values(self) -> int:
        """The same in float32, where they are brought to another arithmetic as a whole."""
        return 2 * ROWS * self.row

    @property
    def factors(self) -> int:
        """The tile's factors."""
        return 3 * ROWS * self.row

    @property
    def squares(self) -> int:
        """A sum of squares for each of the tile's rows."""
        return self.factors + WORD * FACTORS * ROWS

    @property
    def block(self) -> int:
        """The block's rows."""
        return self.squares + WORD * LANES

    def size(self, block: int) -> int:
        """Bytes for a block of so many rows, a multiple of a tile's."""
        return self.block + block * self.row


@dataclass(frozen=True)
class Matrix:
    """One of a layer's products while it is written."""

    arithmetic: ComputePrecision
    inputs: int
    outputs: int
    weights: Value
    """Packed in panels."""
    vectors: Value
    """float32 [1 + constants + …, outputs]: bias, what the arithmetic reads, a table of bits."""

    @property
    def panel(self) -> int:
        """Outputs at once."""
        return panel_of(self.outputs)


def triangle_macs(inputs: int, outputs: int) -> int:
    """Multiplications of a query with a lower triangular matrix: what is left out is left out panel by panel."""
    step = panel_of(outputs)
    return sum((inputs - first) * step for first in range(0, outputs, step))


def panel_of(outputs: int) -> int:
    """Outputs at once of so many."""
    return PANEL if outputs % PANEL == 0 else LANES


def emit_layer(module: ir.Module, name: str, layer: Layer, scratch: Scratch) -> ir.Function:
    """(scratch, the block's codes of bits, its tiles; matrix and vectors of first, second and triangular product; what
    the mean is a product with)."""
    e = Emitter(module, name, [POINTER, POINTER, I64, *[POINTER] * 7])
    memory, all_codes, tiles, *given, mean = e.arguments
    first = Matrix(layer.first, layer.inputs, layer.hidden, *given[:2])
    second = Matrix(layer.second, layer.hidden or layer.inputs, layer.outputs, *given[2:4])
    triangle = Matrix(layer.first, layer.inputs, layer.factored, *given[4:])
    tile = TileWriter(e, layer, scratch, memory, mean)
    with e.loop(tiles) as turn:
        x = e.at(memory, scratch.block, e.times(turn.index, ROWS * scratch.row))
        codes = e.at(all_codes, e.times(turn.index, ROWS * WORD))
        rows = tile.operands(layer.first, layer.inputs, x, scratch.operand, codes)
        if layer.factored:
            tile.scale(triangle, rows, codes)
        if layer.hidden:
            rows = tile.hidden(first, rows, x, codes)
        if layer.outputs:
            tile.answer(second, rows, x)
    e.finish()
    return e.function


class TileWriter:
    """Writes what is done with one tile."""

    def __init__(self, e: Emitter, layer: Layer, scratch: Scratch, memory: Value, mean: Value) -> None:
        self.e, self.layer, self.scratch, self.memory, self.mean = e, layer, scratch, memory, mean
        self.factors = e.at(memory, scratch.factors)

    def operands(self, arithmetic: ComputePrecision, inputs: int, x: Value, place: int, codes: Value | None) -> Value:
        """Rows of float32 as operands, at `place` of the scratch; with codes of bits, what their LayerNorm needs."""
        e, target = self.e, self.e.at(self.memory, place)
        # A layer of one product writes over the rows it reads.
        is_kept = arithmetic.inputs > 1 or not self.layer.hidden or not self.layer.outputs
        has_norm = codes is not None and self.layer.norm is not None
        if not has_norm and not is_kept:
            return x
        with e.loop(ROWS) as row:
            offset = e.times(row.index, self.scratch.row)
            factors = e.at(self.factors, e.times(row.index, WORD * FACTORS))
            values = [e.load(FLOATS, x, offset, n * WORD) for n in range(0, inputs, LANES)]
            if has_norm and self.layer.factored:
                e.store(_dot(e, values, self.mean), factors, WORD * TOTAL)
            elif has_norm:
                total, square = _moments(e, values)
                self._keep_scale(row.index, codes, total, square)
            if is_kept:
                arithmetic.keep(e, values, e.at(target, offset), factors)
        return target if is_kept else x

    def scale(self, matrix: Matrix, rows: Value, codes: Value) -> None:
        """LayerNorm's scale of rows that are not at hand, from the triangular product and the sum that was kept."""
        e, b, zero = self.e, self.e.builder, reals(0.0)
        with e.loop(matrix.outputs, matrix.panel, [zero] * ROWS) as panel:
            # Above the diagonal there are zeros.
            for r, v, value in self._sums(matrix, rows, panel.index, panel.index):
                bias = e.load(FLOATS, matrix.vectors, e.times(panel.index, WORD), v * WORD)
                value = b.fadd(value, bias)
                panel.values[r] = e.fma(value, value, panel.values[r])
        squares = e.at(self.memory, self.scratch.squares)
        e.store(e.totals([*panel.values, *[zero] * (LANES - ROWS)]), squares)
        with e.loop(ROWS) as row:
            total = e.load(FLOAT, self.factors, e.times(row.index, WORD * FACTORS), WORD * TOTAL)
            rest = e.load(FLOAT, squares, e.times(row.index, WORD))
            square = e.fma(b.fmul(total, total), real(1 / matrix.outputs), rest)
            self._keep_scale(row.index, codes, total, square)

    def _keep_scale(self, row: Value, codes: Value, total: Value, square: Value) -> None:
        """1 / σ of [x | bits], given Σ and Σ² of x."""
        e, norm = self.e, self.layer.norm
        assert norm is not None
        ones = bits(e, e.load(I32, codes, e.times(row, WORD)))
        scale = inverse_deviation(e, norm, e.builder.fadd(total, ones), e.builder.fadd(square, ones))
        e.store(scale, self.factors, e.times(row, WORD * FACTORS), WORD * SCALE)

    def hidden(self, matrix: Matrix, rows: Value, x: Value, codes: Value) -> Value:
        """The first product, its table of bits, LayerNorm and GELU, over `x` where that is all; returns operands of the
        second product."""
        e, is_all = self.e, not self.layer.outputs
        second = FP32 if is_all else self.layer.second
        target = x if is_all else e.at(self.memory, self.scratch.values if second.by_row else self.scratch.hidden)
        with e.loop(matrix.outputs, matrix.panel) as panel:
            for r, v, value in self._sums(matrix, rows, panel.index):
                vectors = e.at(matrix.vectors, e.times(panel.index, WORD), v * WORD)
                value = gelu(e, self._normalised(matrix, value, r, vectors, codes), matrix.arithmetic.normal)
                size = WORD if second.by_row else second.value_bytes
                e.store(second.narrowed(e, value), target, r * self.scratch.row, e.times(panel.index, size), v * size)
        if second.by_row:
            return self.operands(second, matrix.outputs, target, self.scratch.hidden, None)
        return target

    def answer(self, matrix: Matrix, rows: Value, x: Value) -> None:
        """The second product, over the rows in front or added to them."""
        e = self.e
        with e.loop(matrix.outputs, matrix.panel) as panel:
            for r, v, value in self._sums(matrix, rows, panel.index):
                offset = e.times(panel.index, WORD)
                value = e.builder.fadd(value, e.load(FLOATS, matrix.vectors, offset, v * WORD))
                target = e.at(x, r * self.scratch.row, offset, v * WORD)
                e.store(e.builder.fadd(value, e.load(FLOATS, target)) if self.layer.is_added else value, target)

    def _normalised(self, matrix: Matrix, value: Value, r: int, vectors: Value, codes: Value) -> Value:
        """(value + the bits' row of the table) · LayerNorm's scale + bias; of an attention block the bias alone."""
        e, row = self.e, matrix.outputs * WORD
        bias = e.load(FLOATS, vectors)
        if self.layer.norm is None:
            return e.builder.fadd(value, bias)
        code = e.builder.zext(e.load(I32, codes, r * WORD), I64)
        table = e.load(FLOATS, vectors, (1 + matrix.arithmetic.constants) * row, e.times(code, row))
        scale = e.spread(e.load(FLOAT, self.factors, WORD * (FACTORS * r + SCALE)))
        return e.fma(e.builder.fadd(value, table), scale, bias)

    def _sums(self, matrix: Matrix, rows: Value, first: Value, start: Value | int = 0) -> list[tuple[int, int, Value]]:
        return sums(self.e, matrix, rows, self.scratch.row, first, self.factors, start)


def sums(
    e: Emitter, matrix: Matrix, rows: Value, row_bytes: int, first: Value, factors: Value, start: Value | int = 0
) -> list[tuple[int, int, Value]]:
    """A tile's products with the panel that begins at output `first`: row, output within the panel, float32 vector.

    Inputs in front of `start` do not count.
    """
    arithmetic, vectors = matrix.arithmetic, matrix.panel // LANES
    elements: Value | int = matrix.inputs // arithmetic.inputs
    weights = e.at(matrix.weights, e.times(first, WORD * matrix.inputs // arithmetic.inputs))
    if not isinstance(start, int):
        skipped = e.builder.udiv(start, number(arithmetic.inputs))
        elements = e.builder.sub(number(matrix.inputs // arithmetic.inputs), skipped)
        rows, weights = e.at(rows, e.times(skipped, WORD)), e.at(weights, e.times(skipped, WORD * matrix.panel))
    with e.loop(elements, UNROLL, [arithmetic.zero] * (ROWS * vectors)) as turn:
        at, column = e.at(rows, e.times(turn.index, WORD)), e.at(weights, e.times(turn.index, WORD * matrix.panel))
        for n in range(UNROLL):
            some = [e.load(arithmetic.elements, column, WORD * (n * matrix.panel + v * LANES)) for v in range(vectors)]
            for r in range(ROWS):
                row = e.spread(e.load(arithmetic.element, at, r * row_bytes + WORD * n))
                for v, element in enumerate(some):
                    turn.values[r * vectors + v] = arithmetic.add_product(e, turn.values[r * vectors + v], row, element)
    found = []
    for v in range(vectors):
        offsets = (WORD * (v * LANES + (1 + n) * matrix.outputs) for n in range(arithmetic.constants))
        constants = [e.load(FLOATS, matrix.vectors, e.times(first, WORD), offset) for offset in offsets]
        for r in range(ROWS):
            found.append((r, v * LANES, arithmetic.real(e, turn.values[r * vectors + v], factors, r, constants)))
    return found


def _moments(e: Emitter, values: list[Value]) -> tuple[Value, Value]:
    """Σ and Σ² of a row."""
    total = square = reals(0.0)
    for value in values:
        total, square = e.builder.fadd(total, value), e.fma(value, value, square)
    return e.total(total), e.total(square)


def _dot(e: Emitter, values: list[Value], other: Value) -> Value:
    """Σ of a row times as many values, and one more value behind them."""
    total = reals(0.0)
    for n, value in enumerate(values):
        total = e.fma(value, e.load(FLOATS, other, n * LANES * WORD), total)
    return e.builder.fadd(e.total(total), e.load(FLOAT, other, len(values) * LANES * WORD))


def bits(e: Emitter, code: Value) -> Value:
    """How many of the two are set: their sum, and that of their squares."""
    b, one = e.builder, ir.Constant(I32, 1)
    return b.uitofp(b.add(b.and_(code, one), b.lshr(code, one)), FLOAT)


def inverse_deviation(e: Emitter, norm: Norm, total: Value, square: Value) -> Value:
    """1 / σ, given Σ and Σ²."""
    b = e.builder
    mean, power = (b.fdiv(value, real(norm.inputs)) for value in (total, square))
    return e.inverse_root(b.fadd(b.fsub(power, b.fmul(mean, mean)), real(norm.epsilon)))
