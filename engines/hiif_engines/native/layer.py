"""A layer of the decoder for a block of queries: x → second(GELU(first(x))), all between on the chip.

A tile of rows goes through both products while it lies in the first cache; both matrices stay in the second one for
the whole block. What follows a product is done on its sums before they leave the registers.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from hiif_engines.native.arithmetic import FACTORS, SCALE, Arithmetic
from hiif_engines.native.emit import FLOAT, FLOATS, I32, I64, LANES, POINTER, WORD, Emitter, Value, real, reals
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
    """Values of a row behind; three colours are padded to a vector."""
    norm: Norm | None
    """Behind the first product; None: an attention block, or no first product."""
    is_added: bool
    """Whether the row in front is added to what comes out."""
    first: Arithmetic
    """Of the first product."""
    second: Arithmetic
    """Of the second one."""


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
    def block(self) -> int:
        """The block's rows."""
        return self.factors + WORD * FACTORS * LANES

    def size(self, block: int) -> int:
        """Bytes for a block of so many rows, a multiple of a tile's."""
        return self.block + block * self.row


@dataclass(frozen=True)
class Matrix:
    """One of a layer's products while it is written."""

    arithmetic: Arithmetic
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


def panel_of(outputs: int) -> int:
    """Outputs at once of so many."""
    return PANEL if outputs % PANEL == 0 else LANES


def emit_layer(module: ir.Module, name: str, layer: Layer, scratch: Scratch) -> ir.Function:
    """(scratch, the block's codes of bits, its tiles, first matrix, its vectors, second matrix, its vectors)."""
    e = Emitter(module, name, [POINTER, POINTER, I64, POINTER, POINTER, POINTER, POINTER])
    memory, all_codes, tiles, *given = e.arguments
    first = Matrix(layer.first, layer.inputs, layer.hidden, *given[:2])
    second = Matrix(layer.second, layer.hidden or layer.inputs, layer.outputs, *given[2:])
    tile = TileWriter(e, layer, scratch, memory)
    with e.loop(tiles) as turn:
        x = e.at(memory, scratch.block, e.times(turn.index, ROWS * scratch.row))
        codes = e.at(all_codes, e.times(turn.index, ROWS * WORD))
        rows = tile.operands(layer.first, layer.inputs, x, scratch.operand, codes)
        if layer.hidden:
            rows = tile.hidden(first, rows, codes)
        tile.answer(second, rows, x)
    e.finish()
    return e.function


class TileWriter:
    """Writes what is done with one tile."""

    def __init__(self, e: Emitter, layer: Layer, scratch: Scratch, memory: Value) -> None:
        self.e, self.layer, self.scratch, self.memory = e, layer, scratch, memory
        self.factors = e.at(memory, scratch.factors)

    def operands(self, arithmetic: Arithmetic, inputs: int, x: Value, place: int, codes: Value | None) -> Value:
        """Rows of float32 as operands, at `place` of the scratch; with codes of bits, their LayerNorm's scale."""
        e, norm = self.e, self.layer.norm if codes is not None else None
        target = e.at(self.memory, place)
        # A layer without a first product writes over the rows it reads.
        is_kept = arithmetic.inputs > 1 or not self.layer.hidden
        if norm is None and not is_kept:
            return x
        with e.loop(ROWS) as row:
            offset, factors = (
                e.times(row.index, self.scratch.row),
                e.at(self.factors, e.times(row.index, WORD * FACTORS)),
            )
            values = [e.load(FLOATS, x, offset, n * WORD) for n in range(0, inputs, LANES)]
            if norm is not None:
                e.store(_scale(e, norm, values, e.load(I32, codes, e.times(row.index, WORD))), factors, WORD * SCALE)
            if is_kept:
                arithmetic.keep(e, values, e.at(target, offset), factors)
        return target if is_kept else x

    def hidden(self, matrix: Matrix, rows: Value, codes: Value) -> Value:
        """The first product, its table of bits, LayerNorm and GELU; returns operands of the second one."""
        e, second = self.e, self.layer.second
        place = self.scratch.values if second.by_row else self.scratch.hidden
        target = e.at(self.memory, place)
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

    def _sums(self, matrix: Matrix, rows: Value, first: Value) -> list[tuple[int, int, Value]]:
        """Row, output within the panel that begins at output `first`, and a vector of float32 of what was summed."""
        return sums(self.e, matrix, rows, self.scratch.row, first, self.factors)


def sums(
    e: Emitter, matrix: Matrix, rows: Value, row_bytes: int, first: Value, factors: Value
) -> list[tuple[int, int, Value]]:
    """A tile's products with the panel that begins at output `first`: row, output within the panel, float32 vector."""
    arithmetic, vectors = matrix.arithmetic, matrix.panel // LANES
    elements = matrix.inputs // arithmetic.inputs
    weights = e.at(matrix.weights, e.times(first, WORD * elements))
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


def _scale(e: Emitter, norm: Norm, values: list[Value], code: Value) -> Value:
    """1 / σ of [x | bits]."""
    total = square = reals(0.0)
    for value in values:
        total, square = e.builder.fadd(total, value), e.fma(value, value, square)
    ones = bits(e, code)
    return inverse_deviation(e, norm, e.builder.fadd(e.total(total), ones), e.builder.fadd(e.total(square), ones))


def bits(e: Emitter, code: Value) -> Value:
    """How many of the two are set: their sum, and that of their squares."""
    b, one = e.builder, ir.Constant(I32, 1)
    return b.uitofp(b.add(b.and_(code, one), b.lshr(code, one)), FLOAT)


def inverse_deviation(e: Emitter, norm: Norm, total: Value, square: Value) -> Value:
    """1 / σ, given Σ and Σ²."""
    b = e.builder
    mean, power = (b.fdiv(value, real(norm.inputs)) for value in (total, square))
    return e.inverse_root(b.fadd(b.fsub(power, b.fmul(mean, mean)), real(norm.epsilon)))
