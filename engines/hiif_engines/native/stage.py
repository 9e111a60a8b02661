"""Stage graphs of a bundle as kernels: their form, recognised by the names of their weights, and those weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.errors import EngineError
from hiif_engines.native.arithmetic import FP32, ComputePrecision
from hiif_engines.native.emit import LANES
from hiif_engines.native.gather import Gather
from hiif_engines.native.kernel import COLOURS, Kernel, Step
from hiif_engines.native.layer import Layer, Norm
from hiif_engines.native.sums import HEAD, KeyValue
from hiif_engines.onnx_graph import parse_graph

Array = NDArray[np.float32]
CODES = 4
"""Values of two bits."""


@dataclass(frozen=True)
class Folded:
    """A matrix that is an input of the graph: attention with the statistics in it."""

    weight: str
    """Name of [inputs, outputs]."""
    bias: str
    """Name of [outputs]."""


@dataclass(frozen=True)
class Product:
    """A matrix for rows, and what is added behind it."""

    weight: Array
    """[inputs, outputs]."""
    bias: Array
    """[outputs]."""
    table: Array | None = None
    """[4, outputs] by code of two bits, where they are."""

    def __post_init__(self) -> None:
        outputs = self.weight.shape[1:]
        if self.bias.shape != outputs or (self.table is not None and self.table.shape != (CODES, *outputs)):
            table = "none" if self.table is None else self.table.shape
            raise EngineError(f"product of {self.weight.shape}, bias {self.bias.shape}, table {table}: they do not fit")


@dataclass(frozen=True)
class Rest:
    """What a LayerNorm needs of rows that are not built (`compose.py`)."""

    triangle: Product
    """Lower triangular [inputs, width]: to numbers of the same sum of squares as the rows without their mean."""
    mean: Array
    """[inputs + 1]: to the rows' sum, and what is added to it."""


@dataclass(frozen=True)
class LayerWeights:
    """A layer: x → second(GELU(first(x)))."""

    first: Product | Folded | None
    """None: the second product alone."""
    second: Product | None
    """To the next row; None: the first product alone."""
    norm: Norm | None = None
    """Where there is a table."""
    level: int = 0
    """Whose bits the table is for."""
    is_last: bool = False
    """Whether the next row is a colour, padded to a vector."""
    rest: Rest | None = None
    """Where the first product is composed with the second one of the level before."""

    def __post_init__(self) -> None:
        if isinstance(self.first, Product) and self.second and self.first.weight.shape[1] != len(self.second.weight):
            raise EngineError(f"layer of {self.first.weight.shape} and {self.second.weight.shape}: they do not fit")

    def step(self, arithmetic: ComputePrecision) -> Step:
        """Sizes and kind."""
        hidden, outputs = self.second.weight.shape if self.second else (0, 0)
        if isinstance(self.first, Product):
            inputs, hidden = self.first.weight.shape
            factored = self.rest.triangle.weight.shape[1] if self.rest else 0
            # Colours are hardly any work, and show most.
            last = FP32 if arithmetic.by_row and self.is_last else arithmetic
            layer = Layer(inputs, hidden, outputs, self.norm, False, arithmetic, last, factored)
            return Step(layer, self.level)
        inputs, hidden = hidden, hidden if self.first else 0
        return Step(Layer(inputs, hidden, outputs, None, hidden > 0, arithmetic, arithmetic), 0)


@dataclass(frozen=True)
class FirstWeights:
    """Level 0 up to its GELU."""

    cell: Array
    """[2, M]."""
    table: Array
    """[4, M]."""
    bias: Array
    """[M]."""
    gather: Gather
    """Sizes."""

    def __post_init__(self) -> None:
        width = self.gather.width
        if (self.cell.shape, self.table.shape) != ((2, width), (CODES, width)):
            raise EngineError(f"level 0 of cell {self.cell.shape} and table {self.table.shape}: expected width {width}")


@dataclass(frozen=True)
class SumWeights:
    """Keys and values."""

    projection: Product
    """To keys and then values, head by head."""
    sizes: KeyValue
    """Of the sums."""

    def __post_init__(self) -> None:
        expected = self.sizes.inputs, self.sizes.outputs
        if self.projection.weight.shape != expected:
            raise EngineError(f"keys and values of {self.projection.weight.shape}: expected {expected}")


@dataclass(frozen=True)
class Stage:
    """One stage graph, or several one behind the other."""

    front: FirstWeights | None
    """None: it begins with a state."""
    layers: tuple[LayerWeights, ...]
    """In order."""
    sums: SumWeights | None
    """What it answers, if not a state or colours."""

    def kernel(self, arithmetic: ComputePrecision) -> Kernel:
        """Its kernel's description."""
        steps = tuple(layer.step(arithmetic) for layer in self.layers)
        if self.sums is not None:
            return Kernel(self.sums.sizes.inputs, steps, self.sums.sizes)
        front = self.front.gather if self.front else steps[0].layer.inputs
        return Kernel(front, steps, "colour" if self.layers and self.layers[-1].is_last else "state")


def read_stage(graph: GraphContract, model: bytes) -> Stage:
    """EngineError where it is of another form."""
    found = _Graph(graph.key, model)
    try:
        layers = tuple(_layers(found))
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
    """One behind the other."""
    return Stage(stages[0].front, tuple(layer for stage in stages for layer in stage.layers), stages[-1].sums)


class _Graph:
    """A graph's weights by name, its inputs; of its LayerNorms in order what they are over, and their epsilons."""

    def __init__(self, key: str, model: bytes) -> None:
        self.key = key
        graph = parse_graph(key, model)
        self.weights: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.inputs = [tensor.name for tensor in graph.input]
        below = {name for node in graph.node if node.op_type == "Sqrt" for name in node.input}
        sums = [node for node in graph.node if node.op_type == "Add" and node.output[0] in below]
        names = [name for node in sums for name in node.input if name in self.weights]
        self.epsilons = [float(self.weights[name].item()) for name in names]
        means = [node.input[1] for node in graph.node if node.op_type == "Div" and node.input[1] in self.weights]
        self.counts = [int(self.weights[name].item()) for name in means[::2]]

    def product(self, name: str) -> Product:
        """A torch layer's weight [outputs, inputs] and bias."""
        return Product(self.weights[f"{name}.weight"].T, self.weights[f"{name}.bias"])

    def other_form(self) -> EngineError:
        """What to say."""
        return EngineError(
            f"graph {self.key} is not of the form that native code has (a HIIF decoder in stages, with tables of two "
            "bits and two projections per attention block): use --engine onnxruntime"
        )


def _layers(graph: _Graph) -> Iterator[LayerWeights]:
    weights = graph.weights
    if "second.weight" in weights:
        yield LayerWeights(None, graph.product("second"))
    folded = [name for name in graph.inputs if re.fullmatch(r"attention_\d+_weight", name)]
    if folded:
        yield LayerWeights(Folded(folded[0], folded[0].replace("weight", "bias")), graph.product("attention.second"))
    levels = sorted({int(found[1]) for name in weights if (found := re.match(r"levels\.(\d+)\.", name))})
    for n in levels:
        name = f"levels.{n}"
        if f"{name}.position.table" not in weights or not len(graph.epsilons) == len(graph.counts) == len(levels):
            raise graph.other_form()
        table = weights[f"{name}.position.table"]
        first = Product(weights[f"{name}.weight"], weights[f"{name}.bias"], table)
        norm, second = Norm(graph.counts[n], graph.epsilons[n]), graph.product(f"{name}.second")
        is_last = second.weight.shape[1] == COLOURS
        yield LayerWeights(first, _padded(second) if is_last else second, norm, n + 1, is_last)


def _padded(product: Product) -> Product:
    """Three colours as a vector."""
    missing = LANES - COLOURS
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
    return SumWeights(
        Product(weight, graph.weights["unsqueeze"].flatten()), KeyValue(len(weight), heads, graph.epsilons[0])
    )
