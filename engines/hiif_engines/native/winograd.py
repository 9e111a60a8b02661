"""3×3 convolutions by Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016, arXiv 1509.09308, §4.3).

A tile of 4×4 outputs needs 6×6 inputs d. With Bᵀ d B and G g Gᵀ every value is multiplied by the weights of its own
place only, so that a convolution is 36 matrix products and 2.25 instead of 9 multiplications per pixel, input and
output; Aᵀ m A gives the outputs. All of it is float32; the transformed weights are computed in float64.

Planes are float32 [4·tile rows + 2, 4·tile columns + 2, channels], with a border that stands for the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from hiif_engines.native.emit import FLOATS, I64, LANES, POINTER, WORD, Emitter, Value, number, reals
from hiif_engines.native.kernel import SLOT
from hiif_engines.native.layer import ROWS, Matrix, panel_of, sums
from hiif_engines.native.precision import FP32

Array = NDArray[np.float32]
OUT, IN = 4, 6
"""Sides of a tile of outputs and of the inputs that it needs."""
PLACES = IN * IN
"""Values of a transformed tile, and matrix products."""
WEIGHTS_TRANSFORM = np.array(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
     [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)  # fmt: skip
"""G, for the points 0, ±1, ±2 and ∞."""
POINTERS = ("source", "target", "added", "weights", "bias", "scratch")
"""Arguments of a kernel: planes, of which `added` is as large as `target`, packed weights, bias, scratch;"""
NUMBERS = ("pixels", "first", "rows", "columns")
"""and behind them pixels per row of the planes, the first row of tiles, their number, and the tiles in a row."""


@dataclass(frozen=True)
class Convolution:
    """Kind of a 3×3 convolution with stride 1 and a padding of 1."""

    inputs: int
    """Number of input channels, a multiple of `LANES`."""
    outputs: int
    """Number of output channels, a multiple of `LANES`."""
    has_relu: bool
    """Whether negative outputs become 0."""
    is_added: bool
    """Whether a plane is added to the outputs."""

    @property
    def macs(self) -> int:
        """Multiplications per pixel of the matrix products."""
        return PLACES * self.inputs * self.outputs // (OUT * OUT)

    @property
    def scratch(self) -> int:
        """Bytes of a group of tiles before and after the products."""
        return PLACES * ROWS * WORD * (self.inputs + self.outputs)


def transformed(weights: Array) -> Array:
    """Return a convolution's weights [O, I, 3, 3] for `emit_convolution`: [36, O / panel, I, panel] float32."""
    wide = np.einsum("ay,oiyx,bx->abio", WEIGHTS_TRANSFORM, weights.astype(np.float64), WEIGHTS_TRANSFORM)
    matrices = wide.reshape(PLACES, *wide.shape[2:]).astype(np.float32)
    panel = panel_of(matrices.shape[2])
    return np.stack([FP32.pack(matrix, panel)[..., 0] for matrix in matrices])


def emit_convolution(module: ir.Module, name: str, kind: Convolution) -> None:
    """Write a function of a pointer to its arguments: rows of tiles, in groups of `ROWS` tiles along a row."""
    e = Emitter(module, name, [POINTER])
    b = e.builder
    slots = {slot: e.load(POINTER, e.arguments[0], SLOT * n) for n, slot in enumerate(POINTERS)}
    slots |= {slot: e.load(I64, e.arguments[0], SLOT * (len(POINTERS) + n)) for n, slot in enumerate(NUMBERS)}
    with e.loop(slots["rows"]) as row, e.loop(slots["columns"], ROWS) as group:
        left = b.sub(slots["columns"], group.index)
        count = b.select(b.icmp_unsigned("<", left, number(ROWS)), left, number(ROWS))
        line = b.mul(b.add(slots["first"], row.index), slots["pixels"])
        # Of a tile's inputs, and of the border's corner before its outputs.
        corner = e.times(b.add(line, group.index), OUT)
        _emit_inputs(e, kind, slots, corner, count)
        _emit_products(e, kind, slots)
        _emit_outputs(e, kind, slots, corner, count)
    e.finish()


def _emit_inputs(e: Emitter, kind: Convolution, slots: dict[str, Value], corner: Value, count: Value) -> None:
    """Emit Bᵀ d B of `count` tiles from pixel `corner` on: [36, ROWS, inputs] in the scratch."""
    size = WORD * kind.inputs
    with e.loop(count) as tile, e.loop(kind.inputs, LANES) as channel:
        offset = e.times(channel.index, WORD)
        lines = _lines(e, slots, "source", size, corner, tile.index, offset, IN)
        target = e.at(slots["scratch"], e.times(tile.index, size), offset)
        columns = [_before(e, [e.load(FLOATS, line, x * size) for line in lines]) for x in range(IN)]
        for y in range(IN):
            for x, value in enumerate(_before(e, [column[y] for column in columns])):
                e.store(value, target, (y * IN + x) * ROWS * size)


def _emit_products(e: Emitter, kind: Convolution, slots: dict[str, Value]) -> None:
    """Emit the product of each place with its weights: [36, ROWS, outputs] behind the inputs in the scratch."""
    size_in, size_out = WORD * kind.inputs, WORD * kind.outputs
    results = e.at(slots["scratch"], PLACES * ROWS * size_in)
    with e.loop(PLACES) as place:
        rows = e.at(slots["scratch"], e.times(place.index, ROWS * size_in))
        target = e.at(results, e.times(place.index, ROWS * size_out))
        weights = e.at(slots["weights"], e.times(place.index, WORD * kind.inputs * kind.outputs))
        matrix = Matrix(FP32, kind.inputs, kind.outputs, weights, slots["bias"])
        with e.loop(kind.outputs, matrix.panel) as panel:
            for r, v, value in sums(e, matrix, rows, size_in, panel.index, slots["scratch"]):
                e.store(value, target, r * size_out, e.times(panel.index, WORD), v * WORD)


def _emit_outputs(e: Emitter, kind: Convolution, slots: dict[str, Value], corner: Value, count: Value) -> None:
    """Emit Aᵀ m A of `count` tiles, bias, ReLU and the added plane."""
    size = WORD * kind.outputs
    results = e.at(slots["scratch"], PLACES * ROWS * WORD * kind.inputs)
    inside = e.builder.add(corner, e.builder.add(slots["pixels"], number(1)))
    with e.loop(count) as tile, e.loop(kind.outputs, LANES) as channel:
        offset = e.times(channel.index, WORD)
        source = e.at(results, e.times(tile.index, size), offset)
        bias = e.load(FLOATS, slots["bias"], offset)
        targets = _lines(e, slots, "target", size, inside, tile.index, offset, OUT)
        added = _lines(e, slots, "added", size, inside, tile.index, offset, OUT) if kind.is_added else targets
        columns = [
            _after(e, [e.load(FLOATS, source, (y * IN + x) * ROWS * size) for y in range(IN)]) for x in range(IN)
        ]
        for y in range(OUT):
            for x, value in enumerate(_after(e, [column[y] for column in columns])):
                value = e.builder.fadd(value, bias)
                if kind.has_relu:
                    value = e.maximum(value, reals(0.0))
                if kind.is_added:
                    value = e.builder.fadd(value, e.load(FLOATS, added[y], x * size))
                e.store(value, targets[y], x * size)


def _lines(
    e: Emitter, slots: dict[str, Value], plane: str, size: int, pixel: Value, tile: Value, offset: Value, count: int
) -> list[Value]:
    """Return the addresses of the first pixels of a tile's lines; pixels have `size` bytes."""
    first = e.at(slots[plane], e.times(pixel, size), e.times(tile, OUT * size), offset)
    line = e.times(slots["pixels"], size)
    return [e.at(first, e.times(line, y)) for y in range(count)]


def _before(e: Emitter, d: Sequence[Value]) -> list[Value]:
    """Emit Bᵀ d of six values."""
    b, four, five, two = e.builder, reals(-4.0), reals(-5.0), reals(2.0)
    even, odd = e.fma(d[2], four, d[4]), e.fma(d[1], four, d[3])
    near, far = b.fsub(d[4], d[2]), b.fmul(two, b.fsub(d[3], d[1]))
    first = e.fma(d[0], reals(4.0), e.fma(d[2], five, d[4]))
    last = e.fma(d[1], reals(4.0), e.fma(d[3], five, d[5]))
    return [first, b.fadd(even, odd), b.fsub(even, odd), b.fadd(near, far), b.fsub(near, far), last]


def _after(e: Emitter, m: Sequence[Value]) -> list[Value]:
    """Emit Aᵀ m of six values: four outputs."""
    b = e.builder
    one, two = (b.fadd(m[n], m[n + 1]) for n in (1, 3))
    less, twice = (b.fsub(m[n], m[n + 1]) for n in (1, 3))
    return [
        b.fadd(b.fadd(m[0], one), two),
        e.fma(twice, reals(2.0), less),
        e.fma(two, reals(4.0), one),
        b.fadd(e.fma(twice, reals(8.0), less), m[5]),
    ]
