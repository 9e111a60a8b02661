"""3×3 convolutions by Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016, arXiv 1509.09308, §4.3).

A tile of 4×4 outputs needs 6×6 inputs d. With Bᵀ d B and G g Gᵀ every value is multiplied by the weights of its own
place only, so that a convolution is 36 matrix products and 2.25 instead of 9 multiplications per pixel, input and
output; Aᵀ m A gives the outputs. All of it is float32; the transformed weights are computed in float64.

Sums of 1×1 convolutions alone are plain products over pixels, which transforms would only make slower.

Planes are float32 [4·tile rows + 2, 4·tile columns + 2, channels], with a border that stands for the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from hiif_engines.native.emit import I64, POINTER, WORD, Emitter, Value, number
from hiif_engines.native.functions.sigmoid import sigmoid
from hiif_engines.native.kernel import SLOT
from hiif_engines.native.products.precision import FP32
from hiif_engines.native.products.product import Matrix, products, sums
from hiif_engines.native.target import Target

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
INSIDE = range(1, OUT + 1)
"""Rows and columns of a transformed tile that a 1×1 convolution's weights reach: those of the first and last are 0."""
NUMBERS = ("pixels", "tiles", "columns")
"""Arguments of a kernel behind its pointers: pixels per row of the planes, the number of tiles, and those in a row."""
Activation = Literal["none", "relu", "silu", "gate"]
"""What is done with a convolution c: max(c, 0), c · σ(c), or with the added plane x (c + x) · (σ(c) − ½)."""


@dataclass(frozen=True)
class Convolution:
    """Kind of a sum of 3×3 and 1×1 convolutions with stride 1, and what follows it."""

    planes: tuple[int, ...]
    """Channels of each source plane, whole vectors."""
    points: int
    """Number of planes, the first ones, with 1×1 convolutions. If it is all of them, a plain product is the kernel."""
    outputs: int
    """Number of output channels, whole vectors."""
    activation: Activation = "none"
    is_added: bool = False
    """Whether a plane is added to the outputs."""

    @property
    def inputs(self) -> int:
        """Number of input channels of all planes."""
        return sum(self.planes)

    @property
    def point_inputs(self) -> int:
        """Number of input channels of the 1×1 convolutions, the first ones."""
        return sum(self.planes[: self.points])

    @property
    def runs(self) -> list[range]:
        """Planes next to each other with equally many channels and convolutions of the same side: one loop of code."""
        kinds = [(channels, n < self.points) for n, channels in enumerate(self.planes)]
        starts = [n for n, kind in enumerate(kinds) if n == 0 or kind != kinds[n - 1]]
        return [range(first, end) for first, end in pairwise([*starts, len(kinds)])]

    @property
    def is_pointwise(self) -> bool:
        """Whether there are 1×1 convolutions alone."""
        return self.points == len(self.planes)

    @property
    def macs(self) -> int:
        """Multiplications per pixel of the matrix products."""
        places = PLACES * (self.inputs - self.point_inputs) + len(INSIDE) ** 2 * self.point_inputs
        return places * self.outputs // (OUT * OUT)

    @property
    def weights(self) -> int:
        """Number of weights as they are multiplied."""
        return (1 if self.is_pointwise else PLACES) * self.inputs * self.outputs

    def scratch(self, target: Target) -> int:
        """Return the bytes of a group of tiles before and after the products."""
        return PLACES * target.rows * WORD * (self.inputs + self.outputs)

    @property
    def pointers(self) -> tuple[str, ...]:
        """First arguments of a kernel: memory of the calling thread, planes, of which `added` is as large as `target`,
        packed weights, bias, and the number of tiles that threads have taken."""
        sources = (f"source_{n}" for n in range(len(self.planes)))
        return ("scratch", *sources, "target", "added", "weights", "bias", "taken")


def transformed(target: Target, weights: Array) -> Array:
    """Return a convolution's weights [O, I, 3, 3] for `emit_convolution`: [36, O / panel, I, panel] float32."""
    outputs, inputs = weights.shape[:2]
    # One product: `einsum` takes eight times as long, seconds for RDN.
    wide = np.kron(WEIGHTS_TRANSFORM, WEIGHTS_TRANSFORM) @ weights.reshape(outputs * inputs, -1).T.astype(np.float64)
    matrices = wide.astype(np.float32).reshape(PLACES, outputs, inputs).transpose(0, 2, 1)
    return np.stack([FP32.pack(matrix, target)[..., 0] for matrix in matrices])


def emit_convolutions(target: Target, kinds: Sequence[Convolution]) -> ir.Module:
    """Return a module with the functions convolution_0, convolution_1, …"""
    module = ir.Module("convolutions")
    for n, kind in enumerate(kinds):
        emit = emit_pointwise if kind.is_pointwise else emit_convolution
        emit(target, module, f"convolution_{n}", kind)
    return module


def packed(target: Target, planes: tuple[int, ...], weights: Array) -> Array:
    """Return weights [O, I, 1, 1] for `emit_pointwise`: for each plane [O / panel, inputs, panel] float32, joined."""
    matrices = np.split(weights[:, :, 0, 0].T, np.cumsum(planes)[:-1])
    return np.concatenate([FP32.pack(matrix, target).ravel() for matrix in matrices])


def emit_convolution(target: Target, module: ir.Module, name: str, kind: Convolution) -> None:
    """Write a function of a pointer to its arguments: groups of as many tiles as a product has rows."""
    e = Emitter(target, module, name, [POINTER])
    b = e.builder
    slots = _load_slots(e, kind)
    with e.taken(slots["taken"], slots["tiles"], target.rows) as first:
        count = e.least(b.sub(slots["tiles"], first), number(target.rows))
        for planes in kind.runs:
            with e.loop(len(planes)) as n:
                _emit_inputs(e, kind, planes, n.index, slots, first, count)
        _emit_products(e, kind, slots)
        _emit_outputs(e, kind, slots, first, count)
    e.finish()


def emit_pointwise(target: Target, module: ir.Module, name: str, kind: Convolution) -> None:
    """Write a function of a pointer to its arguments, those of a convolution whose tiles are single pixels.

    The inner lines of a plane, borders included, are one array of pixels: borders receive values without meaning.
    """
    e = Emitter(target, module, name, [POINTER])
    b = e.builder
    slots = _load_slots(e, kind)
    # The last group ends with the last pixel: some pixels are computed twice, and none behind the lines.
    last = b.sub(slots["tiles"], number(target.rows))
    with e.taken(slots["taken"], slots["tiles"], target.rows) as first:
        pixel = b.add(slots["pixels"], e.least(first, last))
        with e.loop(kind.outputs, target.panel(kind.outputs)) as panel:
            _emit_pixels(e, kind, slots, pixel, panel.index)
    e.finish()


def _emit_pixels(e: Emitter, kind: Convolution, slots: dict[str, Value], pixel: Value, first: Value) -> None:
    """Emit the outputs from `first` on of a group of pixels, summed over the planes in registers."""
    totals = [e.reals(0.0)] * (e.target.rows * e.target.panel(kind.outputs) // e.lanes)
    for planes in kind.runs:
        size = WORD * kind.planes[planes.start]
        weights = e.at(slots["weights"], WORD * sum(kind.planes[: planes.start]) * kind.outputs)
        with e.loop(len(planes), carried=totals) as n:
            rows = e.at(_source_plane(e, planes, n.index), e.times(pixel, size))
            own = e.at(weights, e.times(n.index, size * kind.outputs))
            matrix = Matrix(FP32, kind.planes[planes.start], kind.outputs, own, slots["bias"])
            n.values = products(e, matrix, rows, size, first, totals=n.values)
        totals = n.values
    size, offset = WORD * kind.outputs, e.times(first, WORD)
    target, added = (e.at(slots[name], e.times(pixel, size), offset) for name in ("target", "added"))
    for v in range(len(totals) // e.target.rows):
        bias = e.load(e.floats, slots["bias"], offset, v * e.lanes * WORD)
        for r in range(e.target.rows):
            value = e.builder.fadd(totals[r * len(totals) // e.target.rows + v], bias)
            at = r * size + v * e.lanes * WORD
            other = e.load(e.floats, added, at) if kind.is_added else None
            e.store(_finished(e, kind.activation, value, other), target, at)


def _load_slots(e: Emitter, kind: Convolution) -> dict[str, Value]:
    """Emit the loads of a kernel's arguments."""
    slots = {slot: e.load(POINTER, e.arguments[0], SLOT * n) for n, slot in enumerate(kind.pointers)}
    numbers = {slot: e.load(I64, e.arguments[0], SLOT * (len(kind.pointers) + n)) for n, slot in enumerate(NUMBERS)}
    return slots | numbers


def _emit_inputs(
    e: Emitter, kind: Convolution, planes: range, n: Value, slots: dict[str, Value], first: Value, count: Value
) -> None:
    """Emit Bᵀ d B of `count` tiles of the run's source plane n: [36, rows, inputs] in the scratch."""
    channels = kind.planes[planes.start]
    size, row = WORD * channels, WORD * kind.inputs
    places = INSIDE if planes.start < kind.points else range(IN)
    rows = e.at(slots["scratch"], WORD * sum(kind.planes[: planes.start]), e.times(n, size))
    source = _source_plane(e, planes, n)
    with e.loop(count) as tile:
        corner = _corner(e, slots, e.builder.add(first, tile.index))
        with e.loop(channels, e.lanes) as channel:
            offset = e.times(channel.index, WORD)
            lines = _lines(e, slots, source, size, corner, offset, IN)
            target = e.at(rows, e.times(tile.index, row), offset)
            columns = [_before(e, [e.load(e.floats, line, x * size) for line in lines]) for x in range(IN)]
            for y in places:
                values = _before(e, [column[y] for column in columns])
                for x in places:
                    e.store(values[x], target, (y * IN + x) * e.target.rows * row)


def _source_plane(e: Emitter, planes: range, n: Value) -> Value:
    """Emit the load of the address of the run's source plane n: planes are the arguments behind the scratch."""
    return e.load(POINTER, e.at(e.arguments[0], SLOT * (1 + planes.start), e.times(n, SLOT)))


def _emit_products(e: Emitter, kind: Convolution, slots: dict[str, Value]) -> None:
    """Emit the product of each place with its weights: [36, rows, outputs] behind the inputs in the scratch."""
    group, size_in, size_out = e.target.rows, WORD * kind.inputs, WORD * kind.outputs
    results = e.at(slots["scratch"], PLACES * group * size_in)
    with e.loop(PLACES) as place:
        rows = e.at(slots["scratch"], e.times(place.index, group * size_in))
        target = e.at(results, e.times(place.index, group * size_out))
        weights = e.at(slots["weights"], e.times(place.index, WORD * kind.inputs * kind.outputs))
        matrix = Matrix(FP32, kind.inputs, kind.outputs, weights, slots["bias"])
        start = _first_input(e, kind, place.index) if kind.points else 0
        with e.loop(kind.outputs, e.target.panel(kind.outputs)) as panel:
            for r, v, value in sums(e, matrix, rows, size_in, panel.index, slots["scratch"], start):
                e.store(value, target, r * size_out, e.times(panel.index, WORD), v * WORD)


def _first_input(e: Emitter, kind: Convolution, place: Value) -> Value:
    """Emit the first input whose weights at a place are not 0: outside `INSIDE` those of 1×1 convolutions are."""
    b = e.builder
    inside = [
        b.icmp_unsigned("<", b.sub(at, number(INSIDE.start)), number(len(INSIDE)))
        for at in (b.udiv(place, number(IN)), b.urem(place, number(IN)))
    ]
    return b.select(b.and_(*inside), number(0), number(kind.point_inputs))


def _emit_outputs(e: Emitter, kind: Convolution, slots: dict[str, Value], first: Value, count: Value) -> None:
    """Emit Aᵀ m A of `count` tiles, bias, activation and the added plane."""
    group, size = e.target.rows, WORD * kind.outputs
    results = e.at(slots["scratch"], PLACES * group * WORD * kind.inputs)
    inside = e.builder.add(slots["pixels"], number(1))
    with e.loop(count) as tile:
        corner = e.builder.add(_corner(e, slots, e.builder.add(first, tile.index)), inside)
        with e.loop(kind.outputs, e.lanes) as channel:
            offset = e.times(channel.index, WORD)
            source = e.at(results, e.times(tile.index, size), offset)
            bias = e.load(e.floats, slots["bias"], offset)
            targets = _lines(e, slots, slots["target"], size, corner, offset, OUT)
            added = _lines(e, slots, slots["added"], size, corner, offset, OUT) if kind.is_added else targets
            columns = [
                _after(e, [e.load(e.floats, source, (y * IN + x) * group * size) for y in range(IN)]) for x in range(IN)
            ]
            for y in range(OUT):
                for x, value in enumerate(_after(e, [column[y] for column in columns])):
                    other = e.load(e.floats, added[y], x * size) if kind.is_added else None
                    e.store(_finished(e, kind.activation, e.builder.fadd(value, bias), other), targets[y], x * size)


def _finished(e: Emitter, activation: Activation, value: Value, added: Value | None) -> Value:
    """Emit the activation of a vector, and the addition of another one."""
    b = e.builder
    if activation == "gate":
        return b.fmul(b.fadd(value, added), b.fsub(sigmoid(e, value), e.reals(0.5)))
    if activation == "relu":
        value = e.relu(value)
    elif activation == "silu":
        value = b.fmul(value, sigmoid(e, value))
    return value if added is None else b.fadd(value, added)


def _corner(e: Emitter, slots: dict[str, Value], tile: Value) -> Value:
    """Emit the first pixel of a tile's inputs, which is that of the border's corner before its outputs."""
    b = e.builder
    row, column = b.udiv(tile, slots["columns"]), b.urem(tile, slots["columns"])
    return e.times(b.add(b.mul(row, slots["pixels"]), column), OUT)


def _lines(
    e: Emitter, slots: dict[str, Value], plane: Value, size: int, pixel: Value, offset: Value, count: int
) -> list[Value]:
    """Return the addresses of a pixel and of those below it; pixels have `size` bytes."""
    first = e.at(plane, e.times(pixel, size), offset)
    line = e.times(slots["pixels"], size)
    return [e.at(first, e.times(line, y)) for y in range(count)]


def _before(e: Emitter, d: Sequence[Value]) -> list[Value]:
    """Emit Bᵀ d of six values."""
    b, four, five, two = e.builder, e.reals(-4.0), e.reals(-5.0), e.reals(2.0)
    even, odd = e.fma(d[2], four, d[4]), e.fma(d[1], four, d[3])
    near, far = b.fsub(d[4], d[2]), b.fmul(two, b.fsub(d[3], d[1]))
    first = e.fma(d[0], e.reals(4.0), e.fma(d[2], five, d[4]))
    last = e.fma(d[1], e.reals(4.0), e.fma(d[3], five, d[5]))
    return [first, b.fadd(even, odd), b.fsub(even, odd), b.fadd(near, far), b.fsub(near, far), last]


def _after(e: Emitter, m: Sequence[Value]) -> list[Value]:
    """Emit Aᵀ m of six values: four outputs."""
    b = e.builder
    one, two = (b.fadd(m[n], m[n + 1]) for n in (1, 3))
    less, twice = (b.fsub(m[n], m[n + 1]) for n in (1, 3))
    return [
        b.fadd(b.fadd(m[0], one), two),
        e.fma(twice, e.reals(2.0), less),
        e.fma(two, e.reals(4.0), one),
        b.fadd(e.fma(twice, e.reals(8.0), less), m[5]),
    ]
