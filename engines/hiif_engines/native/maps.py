"""Maps in native code: 3×3 convolutions of the features, or those of a HIIF decoder's first layer (decoding.md §3a), a
3×3 convolution, its products with a matrix for each corner, and the moments of its outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray
from onnx import numpy_helper

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.sizes import Size
from hiif_engines.native.compile import Compiled, aligned
from hiif_engines.native.crew import Crew
from hiif_engines.native.emit import I32, I64, POINTER, WORD, Emitter, Value, number
from hiif_engines.native.encoder import NativeStep, plane_size
from hiif_engines.native.encoder_graph import Part, PlaneLayer, read_convolution
from hiif_engines.native.fronts.gather import MAPS
from hiif_engines.native.kernel import SLOT
from hiif_engines.native.products.precision import FACTORS, MatrixPrecision
from hiif_engines.native.products.product import Matrix, sums
from hiif_engines.native.products.tiles import emit_begin, emit_end
from hiif_engines.native.target import Target
from hiif_engines.native.winograd import PLACES, emit_convolution, emit_convolutions
from hiif_engines.onnx_graph import parse_graph

Array = NDArray[np.float32]
OPERATORS = (
    "Concat", "Conv", "Gather", "MatMul", "Mul", "ReduceSum", "ReduceSum", "Reshape", "Split", "Transpose", "Unsqueeze",
    "Unsqueeze",
)  # fmt: skip
"""Operators of the graph, sorted. That they are connected in the same way is checked on values (`check.py`)."""
MAP_OPERATORS = ("Gather", "Transpose", "Reshape", "Conv")
"""Operators of a map that is a convolution, from its end."""
POINTERS = ("rows", "weights", "vectors", "maps", "moments", "scratch")
"""Arguments of the products: the convolution's plane, packed matrices, the precision's constants of each, arrays
[4, stride, outputs] and [stride, 2], memory for a tile;"""
NUMBERS = ("height", "width", "pixels", "stride")
"""and behind them rows and columns of the maps, pixels per row of the plane, and pixels that an array has room for."""


@dataclass(frozen=True)
class MapWeights:
    """Weights of the graph `maps`."""

    convolution: PlaneLayer
    """From plane `features` to plane `rows`."""
    matrices: Array
    """[4, inputs, outputs], the convolution's outputs being the inputs."""


def read_maps(graph: GraphContract, model: bytes, target: Target) -> MapWeights | None:
    """Read the graph of a HIIF decoder's maps; None where it has another form, or maps of no whole vectors."""
    found = parse_graph(graph.key, model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.initializer}
    nodes = {node.op_type: node for node in found.node}
    if sorted(node.op_type for node in found.node) != list(OPERATORS):
        return None
    convolution = read_convolution(nodes["Conv"], constants, is_padded=False)
    matrix = constants.get(nodes["MatMul"].input[1])
    if convolution is None or matrix is None or [one.name for one in graph.outputs] != [*MAPS, "moments"]:
        return None
    weights, bias = convolution
    width, outputs = len(bias), matrix.shape[-1] // len(MAPS)
    if weights.shape[2:] != (3, 3) or matrix.shape != (width, len(MAPS) * outputs) or outputs % target.lanes:
        return None
    matrices = matrix.reshape(width, len(MAPS), outputs).transpose(1, 0, 2)
    return MapWeights(PlaneLayer((Part("features", weights),), "rows", bias), matrices)


@dataclass(frozen=True)
class MapProducts:
    """Sizes and precision of the products with the matrices of the maps."""

    target: Target
    precision: MatrixPrecision
    width: int
    """Number of values in a row of the convolution's plane."""
    outputs: int
    """Number of values in a map's row."""

    @property
    def row(self) -> int:
        """Bytes of a row in float32, which has room for one of operands."""
        return WORD * self.width

    @property
    def factors(self) -> int:
        """Offset of the rows' factors in the scratch memory, after the operands of a tile."""
        return self.target.rows * self.row

    @property
    def sums(self) -> int:
        """Offset of a panel's sums, where the processor's tiles leave them."""
        return self.factors + self.target.rows * WORD * FACTORS

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the scratch memory."""
        return self.sums + self.target.rows * WORD * self.target.panel(self.outputs)


class NativeMaps:
    """Maps of a HIIF decoder as a session. `run` may be called from several threads, each call with its own planes."""

    def __init__(
        self, graph: GraphContract, weights: MapWeights, target: Target, precision: MatrixPrecision, crew: Crew
    ) -> None:
        """`precision` is that of the products; the convolution is computed in fp32, by threads of the crew."""
        self.graph, self._target, self._crew = graph, target, crew
        self._layer, (_, inputs, self._outputs) = weights.convolution, weights.matrices.shape
        self._products = MapProducts(target, precision, target.padded(inputs), self._outputs)
        self._width = self._products.width
        described = "maps", self._layer.kind(target.in_float32), self._products
        code = Compiled(self._module, target, described)
        self._convolution = NativeStep(target.in_float32, self._layer, code.function("convolution"))
        self._call = code.function("maps")
        matrices = np.pad(weights.matrices, ((0, 0), (0, self._width - inputs), (0, 0)))
        self._weights = aligned(np.stack([precision.pack(matrix, target) for matrix in matrices]))
        # Behind a bias, which the maps do not have.
        self._vectors = np.stack([np.pad(precision.scales(matrix), ((1, 0), (0, 0))) for matrix in matrices])

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Features [1, C, b + 2, w + 2] → four maps [b · w, M] and moments [b · w, 2] float32.

        Features are copied fastest where their channels are contiguous. EngineError for another number of channels.
        """
        source, (height, width) = _source_plane(self._target, feeds["features"], self._layer)
        lines, pixels = source.shape[:2]
        # The products read and write whole groups of pixels: beyond a line, and so in the end beyond the picture.
        rows = np.empty((lines * pixels + self._target.rows, self._width), np.float32)
        planes = {"features": source, "rows": rows[: lines * pixels].reshape(lines, pixels, self._width)}
        self._convolution.run(planes, (height, width), self._crew)
        count = height * width
        stride = count + self._target.padded(self._target.rows)
        maps = np.empty((len(MAPS), stride, self._outputs), np.float32)
        moments = np.empty((stride, 2), np.float32)
        scratch = aligned(np.empty(self._products.scratch_bytes, np.uint8))
        numbers = height, width, pixels, stride
        self._call([rows, self._weights, self._vectors, maps, moments, scratch, *numbers])
        return {**{name: maps[n, :count] for n, name in enumerate(MAPS)}, "moments": moments[:count]}

    def _module(self) -> ir.Module:
        module = ir.Module("maps")
        target = self._target.in_float32
        emit_convolution(target, module, "convolution", self._layer.kind(target))
        _emit_maps(self._products, module, "maps")
        return module

    def work(self, feeds: Tensors) -> tuple[int, int]:
        """Return the multiplications of a call, and its bytes: planes are read and written, maps written."""
        kind, (height, width) = self._convolution.kind, feeds["features"].shape[2:]
        area, count = math.prod(plane_size((height - 2, width - 2))), (height - 2) * (width - 2)
        outputs = len(MAPS) * self._outputs
        values = 2 * area * (kind.inputs + kind.outputs) + count * (outputs + 2)
        weights = PLACES * kind.inputs * kind.outputs + self._weights.size
        return kind.macs * area + self._width * outputs * count, WORD * (values + weights)


def read_convolution_maps(graph: GraphContract, model: bytes) -> list[PlaneLayer] | None:
    """Read maps that are each a 3×3 convolution of the features, as LIIF's; None where they have another form."""
    found = parse_graph(graph.key, model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.initializer}
    made = {node.output[0]: node for node in found.node}
    layers: list[PlaneLayer] = []
    for output in graph.outputs:
        name = output.name
        for operator in MAP_OPERATORS:
            node = made.pop(name, None)
            if node is None or node.op_type != operator or node.domain:
                return None
            name = node.input[0]
        convolution = read_convolution(node, constants, is_padded=False)
        if name != "features" or convolution is None or convolution[0].shape[2:] != (3, 3):
            return None
        layers.append(PlaneLayer((Part("features", convolution[0]),), output.name, convolution[1]))
    return None if made else layers


class ConvolutionMaps:
    """Maps that are convolutions as a session. `run` may be called from several threads, each with its own planes."""

    def __init__(self, graph: GraphContract, layers: Sequence[PlaneLayer], target: Target, crew: Crew) -> None:
        self.graph, self._target, self._crew = graph, target, crew
        kinds = [layer.kind(target) for layer in layers]
        code = Compiled(lambda: emit_convolutions(target, kinds), target, kinds)
        self._steps = [NativeStep(target, layer, code.function(f"convolution_{n}")) for n, layer in enumerate(layers)]

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Features [1, C, b + 2, w + 2] → maps [b · w, M] float32. EngineError for another number of channels."""
        source, (height, width) = _source_plane(self._target, feeds["features"], self._steps[0].layer)
        maps = {}
        for step in self._steps:
            plane = np.empty((*source.shape[:2], step.kind.outputs), np.float32)
            step.run({"features": source, step.layer.target: plane}, (height, width), self._crew)
            inside = plane[1 : height + 1, 1 : width + 1, : len(step.layer.bias)]
            maps[step.layer.target] = inside.reshape(height * width, -1)
        return maps

    def work(self, feeds: Tensors) -> tuple[int, int]:
        """Return the multiplications of a call, and its bytes: planes read and written, and maps copied from them."""
        height, width = feeds["features"].shape[2:]
        area, kinds = math.prod(plane_size((height - 2, width - 2))), [step.kind for step in self._steps]
        values = area * sum(kind.inputs + 3 * kind.outputs for kind in kinds)
        weights = PLACES * sum(kind.inputs * kind.outputs for kind in kinds)
        return area * sum(kind.macs for kind in kinds), WORD * (values + weights)


def _source_plane(target: Target, given: NDArray[Any], layer: PlaneLayer) -> tuple[Array, Size]:
    """Return the plane of features [1, C, b + 2, w + 2], whose border they are, and (b, w)."""
    features = np.asarray(given, np.float32)[0]
    channels, height, width = features.shape[0], features.shape[1] - 2, features.shape[2] - 2
    expected = layer.parts[0].weights.shape[1]
    if channels != expected or min(height, width) < 1:
        raise EngineError(f"graph maps: features are {features.shape}, expected {expected} channels")
    source = np.zeros((*plane_size((height, width)), target.padded(channels)), np.float32)
    source[: height + 2, : width + 2, :channels] = features.transpose(1, 2, 0)
    return source, (height, width)


def _emit_maps(kind: MapProducts, module: ir.Module, name: str) -> None:
    """Write a function of a pointer to its arguments: lines in groups of as many pixels as a product has rows.

    What a line's last group writes beyond it is overwritten by the next line.
    """
    target, width, outputs = kind.target, kind.width, kind.outputs
    e = Emitter(target, module, name, [POINTER])
    b = e.builder
    slots = {slot: e.load(POINTER, e.arguments[0], SLOT * n) for n, slot in enumerate(POINTERS)}
    slots |= {slot: e.load(I64, e.arguments[0], SLOT * (len(POINTERS) + n)) for n, slot in enumerate(NUMBERS)}
    emit_begin(e)
    with e.loop(slots["height"]) as line, e.loop(slots["width"], target.rows) as column:
        # The plane has a border of one pixel.
        pixel = b.add(b.mul(b.add(line.index, number(1)), slots["pixels"]), b.add(column.index, number(1)))
        rows = e.at(slots["rows"], e.times(pixel, WORD * width))
        first = b.add(b.mul(line.index, slots["width"]), column.index)
        _emit_moments(e, width, rows, e.at(slots["moments"], e.times(first, 2 * WORD)))
        rows = _emit_operands(e, kind, rows, slots["scratch"])
        with e.loop(len(MAPS)) as n:
            own = e.at(slots["maps"], e.times(b.add(b.mul(n.index, slots["stride"]), first), WORD * outputs))
            _emit_products(e, kind, n.index, rows, own, slots)
    emit_end(e)
    e.finish()


def _emit_operands(e: Emitter, kind: MapProducts, rows: Value, scratch: Value) -> Value:
    """Emit a tile's rows as operands, and return where they are."""
    if kind.precision.inputs == 1:
        return rows
    with e.loop(kind.target.rows) as row:
        offset = e.times(row.index, kind.row)
        values = [e.load(e.floats, rows, offset, n * WORD) for n in range(0, kind.width, e.lanes)]
        factors = e.at(scratch, kind.factors, e.times(row.index, WORD * FACTORS))
        kind.precision.keep(e, values, e.at(scratch, offset), factors)
    return scratch


def _emit_products(
    e: Emitter, kind: MapProducts, n: Value, rows: Value, own: Value, slots: Mapping[str, Value]
) -> None:
    """Emit a tile's products with the matrix of map `n`, to `own`."""
    precision, outputs = kind.precision, kind.outputs
    weights = e.at(slots["weights"], e.times(n, WORD * precision.elements(kind.width, e.target) * outputs))
    vectors = e.at(slots["vectors"], e.times(n, WORD * (1 + precision.constants) * outputs))
    matrix = Matrix(precision, kind.width, outputs, weights, vectors)
    factors, room = (e.at(slots["scratch"], offset) for offset in (kind.factors, kind.sums))
    with e.loop(outputs, e.target.panel(outputs)) as panel:
        for r, v, value in sums(e, matrix, rows, kind.row, panel.index, factors, room=room):
            e.store(value, own, r * WORD * outputs, e.times(panel.index, WORD), v * WORD)


def _emit_moments(e: Emitter, width: int, rows: Value, target: Value) -> None:
    """Emit Σ and Σ² of a tile's rows, side by side; behind them are numbers without meaning."""
    totals, squares = [e.reals(0.0)] * e.target.rows, [e.reals(0.0)] * e.target.rows
    for r in range(e.target.rows):
        for n in range(0, width, e.lanes):
            value = e.load(e.floats, rows, WORD * (r * width + n))
            totals[r], squares[r] = e.builder.fadd(totals[r], value), e.fma(value, value, squares[r])
    order = [n + side for n in range(e.lanes) for side in (0, e.lanes)]
    pairs = ir.Constant(ir.VectorType(I32, 2 * e.lanes), order)
    for n, (total, square) in enumerate(zip(e.totals(totals), e.totals(squares), strict=True)):
        e.store(e.builder.shuffle_vector(total, square, pairs), target, n * 2 * e.lanes * WORD)
