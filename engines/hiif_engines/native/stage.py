"""Reads stage graphs of a bundle for kernels: recognises their architecture by the names of their weights."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.errors import EngineError
from hiif_engines.native.emit import COLOURS
from hiif_engines.native.fronts.blend import Blend
from hiif_engines.native.fronts.corners import RELATIVES, TILE_ROWS, Corners, Waves
from hiif_engines.native.fronts.filters import LOCALS, Filters
from hiif_engines.native.fronts.gather import DISTANCES, MAPS, TAPS, Gather
from hiif_engines.native.kernel import Kernel, Step
from hiif_engines.native.layer import Activation, Layer, Norm
from hiif_engines.native.products.precision import FP32, MatrixPrecision
from hiif_engines.native.sums import HEAD, KeyValueSums
from hiif_engines.native.target import Target
from hiif_engines.onnx_graph import parse_graph

Array = NDArray[np.float32]
CODES = 4
"""Number of values that two bits can have."""


@dataclass(frozen=True)
class Folded:
    """A matrix that is an input of the graph: attention with the statistics folded in."""

    weight: str
    """Name of the input [inputs, outputs]."""
    bias: str
    """Name of the input [outputs]."""


@dataclass(frozen=True)
class Product:
    """A matrix for rows, and the values added to the product."""

    weight: Array
    """Weights of shape [inputs, outputs]."""
    bias: Array
    """Bias added to the product, [outputs]."""
    table: Array | None = None
    """Table [4, outputs] by code of two bits, where the layer reads bits."""

    def __post_init__(self) -> None:
        outputs = self.weight.shape[1:]
        if self.bias.shape != outputs or (self.table is not None and self.table.shape != (CODES, *outputs)):
            table = "none" if self.table is None else self.table.shape
            raise EngineError(f"product of {self.weight.shape}, bias {self.bias.shape}, table {table}: they do not fit")


@dataclass(frozen=True)
class Rest:
    """Matrices for the LayerNorm of rows that are not built (`compose.py`)."""

    triangle: Product
    """Lower triangular [inputs, width]: gives numbers with the same sum of squares as the rows without their mean."""
    mean: Array
    """[inputs + 1]: gives the rows' sum; the last value is added to it."""


@dataclass(frozen=True)
class LayerWeights:
    """Weights of a layer x → second(activation(first(x)))."""

    first: Product | Folded | None
    """First product; None for the second product alone."""
    second: Product | None
    """Product to the next row; None for the first product alone."""
    norm: Norm | None = None
    """LayerNorm, where the first product has a table."""
    level: int = 0
    """Level whose bits the table is for."""
    is_last: bool = False
    """Whether the next row is a colour, padded to a vector."""
    rest: Rest | None = None
    """LayerNorm matrices, where the first product is composed with the second one of the level before."""
    activation: Activation = "gelu"
    """What follows the first product."""
    is_sparse: bool = False
    """Whether many of the layer's inputs are 0, as behind a ReLU."""

    def __post_init__(self) -> None:
        if isinstance(self.first, Product) and self.second and self.first.weight.shape[1] != len(self.second.weight):
            raise EngineError(f"layer of {self.first.weight.shape} and {self.second.weight.shape}: they do not fit")

    def step(self, precision: MatrixPrecision) -> Step:
        """Return the layer's sizes and precisions."""
        hidden, outputs = self.second.weight.shape if self.second else (0, 0)
        if isinstance(self.first, Product):
            inputs, hidden = self.first.weight.shape
            factored = self.rest.triangle.weight.shape[1] if self.rest else 0
            # The last product stays in fp32: it is little work, and its errors are the most visible.
            last = FP32 if precision.by_row and self.is_last else precision
            layer = Layer(
                inputs, hidden, outputs, self.norm, False, precision, last, factored, self.activation, self.is_sparse
            )
            return Step(layer, self.level)
        inputs, hidden = hidden, hidden if self.first else 0
        return Step(Layer(inputs, hidden, outputs, None, hidden > 0, precision, precision), 0)


@dataclass(frozen=True)
class FirstWeights:
    """Weights of level 0 up to its GELU."""

    cell: Array
    """Weights of the cell, [2, M]."""
    table: Array
    """Table by code of two bits, [4, M]."""
    bias: Array
    """Bias of the level, [M]."""
    gather: Gather
    """Sizes of the gathered rows."""

    def __post_init__(self) -> None:
        width = self.gather.width
        if (self.cell.shape, self.table.shape) != ((2, width), (CODES, width)):
            raise EngineError(f"level 0 of cell {self.cell.shape} and table {self.table.shape}: expected width {width}")


class FrontWeights(ABC):
    """Weights before a decoder's layers: of the rows of corners (`corners.py`), of filters, or of a blend."""

    maps: ClassVar[tuple[str, ...]]
    """Maps that they read."""
    tables: ClassVar[tuple[str, ...]] = (*DISTANCES, *RELATIVES)
    """Tables of axes that they read, beside taps."""

    @property
    @abstractmethod
    def gather(self) -> Corners | Filters | Blend:
        """Sizes of the rows."""

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Fixed sizes of inputs that are not those of corners."""
        return {}

    @abstractmethod
    def level(self, cell: Array) -> Array:
        """Return `level_0` for a cell [2]."""


@dataclass(frozen=True)
class CornerWeights(FrontWeights):
    """Weights of position and cell, whose sum with a map is the row of a corner."""

    maps = ("map_0",)
    position: Array
    """Weights of the row and of the column, [2, M]."""
    cell: Array
    """Weights of the cell, [2, M]."""
    bias: Array
    """[M]."""

    def __post_init__(self) -> None:
        if not self.position.shape == self.cell.shape == (2, *self.bias.shape):
            raise EngineError(f"position {self.position.shape}, cell {self.cell.shape}, bias {self.bias.shape}: no fit")

    @property
    def gather(self) -> Corners | Filters:
        """Sizes of the rows."""
        return Corners(len(self.bias))

    def level(self, cell: Array) -> Array:
        """Return weights of the row and of the column, and the constant, [3, M]."""
        level: Array = np.concatenate([self.position, (cell @ self.cell + self.bias)[None]]).astype(np.float32)
        return level


@dataclass(frozen=True)
class FilterWeights(CornerWeights):
    """Weights of position and cell, whose sum gives the weights of a map's filters (`filters.py`)."""

    tables = LOCALS

    @property
    def gather(self) -> Filters:
        """Sizes of the rows."""
        return Filters(len(self.bias))

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """One tap and one position per query, and the map."""
        return {"map_0": (self.gather.map_width,), **dict.fromkeys((*TAPS, *LOCALS), ())}


@dataclass(frozen=True)
class WaveWeights(FrontWeights):
    """Weights of the phase of waves, whose amplitudes and frequencies are maps."""

    maps = ("map_0", "map_1")
    phase: Array
    """Weights of the cell, [2, M / 2]."""

    @property
    def gather(self) -> Waves:
        """Sizes of the rows."""
        return Waves(2 * self.phase.shape[1])

    def level(self, cell: Array) -> Array:
        """Return the phase, [M / 2]."""
        phase: Array = cell @ self.phase
        return phase


@dataclass(frozen=True)
class BlendWeights(FrontWeights):
    """Weights of position and cell, whose sum with four maps is a state."""

    maps = MAPS
    row: Array
    """Weights of the position relative to each corner's row, [4, M]."""
    column: Array
    """Weights of the position relative to each corner's column, [4, M]."""
    cell: Array
    """Weights of the cell, [2, M]."""
    bias: Array
    """[M]."""

    def __post_init__(self) -> None:
        shapes = [array.shape[:-1] for array in (self.row, self.column, self.cell)]
        widths = {array.shape[-1] for array in (self.row, self.column, self.cell, self.bias)}
        if shapes != [(4,), (4,), (2,)] or len(widths) != 1:
            raise EngineError(f"position and cell of {shapes} values, widths {sorted(widths)}: they do not fit")

    @property
    def gather(self) -> Blend:
        """Sizes of the rows."""
        return Blend(len(self.bias))

    def level(self, cell: Array) -> Array:
        """Return weights of the upper and lower row and the left and right column, and the constant, [5, M]."""
        corners = (array.reshape(2, 2, -1).sum(axis) for axis, array in ((1, self.row), (0, self.column)))
        level: Array = np.concatenate([*corners, (cell @ self.cell + self.bias)[None]]).astype(np.float32)
        return level


@dataclass(frozen=True)
class SumWeights:
    """Weights of keys and values."""

    projection: Product
    """Product to keys and then values, head by head."""
    sizes: KeyValueSums
    """Sizes of the sums that they give."""

    def __post_init__(self) -> None:
        expected = self.sizes.inputs, self.sizes.outputs
        if self.projection.weight.shape != expected:
            raise EngineError(f"keys and values of {self.projection.weight.shape}: expected {expected}")


@dataclass(frozen=True)
class Stage:
    """One stage graph, or several in sequence, or a decoder's whole graph."""

    front: FirstWeights | FrontWeights | None
    """Weights of level 0, or of corners; None where the stage begins with a state."""
    layers: tuple[LayerWeights, ...]
    """Weights of the layers, in order."""
    sums: SumWeights | None
    """Weights of keys and values, where the stage returns sums."""

    def kernel(self, precision: MatrixPrecision, target: Target) -> Kernel:
        """Return the description of the stage's kernel."""
        if isinstance(self.front, CornerWeights | WaveWeights):
            target = target.with_rows(TILE_ROWS)
        steps = tuple(layer.step(precision) for layer in self.layers)
        if self.sums is not None:
            return Kernel(self.sums.sizes.inputs, steps, self.sums.sizes, target)
        front = self.front.gather if self.front else steps[0].layer.inputs
        is_last = self.layers[-1].is_last if self.layers else isinstance(self.front, FilterWeights)
        return Kernel(front, steps, "colour" if is_last else "state", target)


def read_stage(graph: GraphContract, model: bytes, target: Target) -> Stage:
    """Read a stage graph; EngineError where it has another architecture."""
    found = _Graph(graph.key, model)
    try:
        layers = tuple(_layers(found, target))
        if "row_weight" in found.weights:
            names = ("row_weight", "column_weight", "cell_weight", "bias")
            return Stage(BlendWeights(*(found.weights[name] for name in names)), layers, None)
        if "first.cell_weight" in found.weights:
            return Stage(_first(found), layers, None)
        if "projection.weight" in found.weights:
            return Stage(None, layers, _sums(found, graph))
    except (KeyError, ValueError) as error:
        raise found.other_form() from error
    if not layers:
        raise found.other_form()
    return Stage(None, layers, None)


def join_stages(stages: Sequence[Stage]) -> Stage:
    """Return several stages as one, in sequence."""
    return Stage(stages[0].front, tuple(layer for stage in stages for layer in stage.layers), stages[-1].sums)


class _Graph:
    """A graph's weights by name, its inputs, and the sizes and epsilons of its LayerNorms in order."""

    def __init__(self, key: str, model: bytes) -> None:
        self.key = key
        graph = parse_graph(key, model)
        self.weights: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.inputs = [tensor.name for tensor in graph.input]
        roots = [node for node in graph.node if node.op_type == "Sqrt"]
        below, above = {root.input[0] for root in roots}, {root.output[0] for root in roots}
        sums = [node for node in graph.node if node.op_type == "Add"]
        inside = [node for node in sums if node.output[0] in below]
        self.is_unbiased = not inside
        """Whether epsilons are added to roots, as in SRNO's norm, and not below them."""
        sums = inside or [node for node in sums if above & {*node.input}]
        names = [name for node in sums for name in node.input if name in self.weights]
        self.epsilons = [float(self.weights[name].item()) for name in names]
        means = [node.input[1] for node in graph.node if node.op_type == "Div" and node.input[1] in self.weights]
        self.counts = [int(self.weights[name].item()) for name in means[::2]]

    def product(self, name: str) -> Product:
        """Return a torch layer's weight [outputs, inputs], transposed, and its bias."""
        return Product(self.weights[f"{name}.weight"].T, self.weights[f"{name}.bias"])

    def other_form(self) -> EngineError:
        """Return the error for another architecture."""
        return EngineError(
            f"graph {self.key} does not have the architecture of the native code (a HIIF decoder in stages, with "
            "tables of two bits and two projections per attention block, or SRNO): use --engine onnxruntime"
        )


def _layers(graph: _Graph, target: Target) -> Iterator[LayerWeights]:
    weights = graph.weights
    folded = [name for name in graph.inputs if re.fullmatch(r"attention_\d+_weight", name)]
    attention = "attention.second" if "attention.second.weight" in weights else "second"
    if "second.weight" in weights and not (folded and attention == "second"):
        yield LayerWeights(None, graph.product("second"))
    if folded:
        yield LayerWeights(Folded(folded[0], folded[0].replace("weight", "bias")), graph.product(attention))
    if "colours.first.weight" in weights:
        last = padded(graph.product("colours.second"), target.lanes)
        yield LayerWeights(graph.product("colours.first"), last, is_last=True)
    levels = sorted({int(found[1]) for name in weights if (found := re.match(r"levels\.(\d+)\.", name))})
    for n in levels:
        name = f"levels.{n}"
        if f"{name}.position.table" not in weights or not len(graph.epsilons) == len(graph.counts) == len(levels):
            raise graph.other_form()
        table = weights[f"{name}.position.table"]
        first = Product(weights[f"{name}.weight"], weights[f"{name}.bias"], table)
        norm, second = Norm(graph.counts[n], graph.epsilons[n]), graph.product(f"{name}.second")
        is_last = second.weight.shape[1] == COLOURS
        yield LayerWeights(first, padded(second, target.lanes) if is_last else second, norm, n + 1, is_last)


def padded(product: Product, outputs: int) -> Product:
    """Return the product to three colours padded to that many outputs."""
    missing = outputs - COLOURS
    return Product(np.pad(product.weight, ((0, 0), (0, missing))), np.pad(product.bias, (0, missing)))


def _first(graph: _Graph) -> FirstWeights:
    weights = graph.weights
    if "first.position.table" not in weights or not len(graph.epsilons) == len(graph.counts) == 1:
        raise graph.other_form()
    table, bias = weights["first.position.table"], weights["first.bias"]
    gather = Gather(len(bias), Norm(graph.counts[0], graph.epsilons[0]))
    return FirstWeights(weights["first.cell_weight"], table, bias, gather)


def _sums(graph: _Graph, contract: GraphContract) -> SumWeights:
    heads, head = (int(size) for size in contract.outputs[0].shape[:2])
    weight = graph.weights["projection.weight"].T
    if head != HEAD or len(graph.epsilons) != 1:
        raise graph.other_form()
    sizes = KeyValueSums(len(weight), heads, graph.epsilons[0], graph.is_unbiased)
    return SumWeights(Product(weight, graph.weights["unsqueeze"].flatten()), sizes)
