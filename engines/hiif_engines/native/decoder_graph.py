"""Reads decoders of one graph: LIIF's and LTE's, which predict from each corner with one network, and MetaSR's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.errors import EngineError
from hiif_engines.native.fronts.corners import CORNERS
from hiif_engines.native.fronts.gather import AREA_EPSILON, AREA_SCALE, TAPS
from hiif_engines.native.products.precision import FP32
from hiif_engines.native.stage import (
    CornerWeights,
    FilterWeights,
    FrontWeights,
    LayerWeights,
    Product,
    Stage,
    WaveWeights,
    padded,
)
from hiif_engines.native.target import Target
from hiif_engines.onnx_graph import parse_graph

Constants = Mapping[str, NDArray[Any]]
COMMON = (-1, 0, 1, 2, AREA_SCALE, AREA_EPSILON)
"""Constants of graphs with corners: indices, the scale of areas, and what is added to them."""


@dataclass(frozen=True)
class Form:
    """A decoder's graph. That its operators are connected as they should be is checked on values (`check.py`)."""

    operators: Mapping[str, int]
    """Operators and how often the graph has them, without a product and a ReLU for each layer and corner, and the last
    product."""
    front: Callable[..., FrontWeights]
    """Makes the weights of the rows from those named `weights`."""
    weights: tuple[str, ...]
    constants: Callable[[int], set[float]]
    """Of the rows' width: all other constants."""
    layers: tuple[str, ...] | None = ()
    """Names of layers before the network's, which read rows without zeros; None where there is no network."""


FORMS = {
    "LIIF": Form(
        {"Add": 25, "Div": 4, "Gather": 16, "MatMul": 1, "Mul": 13, "Relu": 4, "Reshape": 12, "Unsqueeze": 4},
        lambda row, column, cell, bias: CornerWeights(np.stack([row, column]), cell, bias),
        ("position.row", "position.column", "cell_weight", "bias"),
        lambda width: {*COMMON, width},
    ),
    "LTE": Form(
        {
            "Add": 22, "Concat": 5, "Cos": 4, "Div": 4, "Gather": 20, "MatMul": 1, "Mul": 21, "Reshape": 20,
            "Shape": 2, "Sin": 4, "Slice": 8, "Unsqueeze": 4,
        },
        WaveWeights,
        ("phase",),
        # To the end of an axis.
        lambda width: {*COMMON, width // 2, 2**63},
        ("first",),
    ),
    "MetaSR": Form(
        {"Add": 5, "Gather": 7, "Mul": 4, "ReduceSum": 1, "Relu": 1, "Reshape": 3, "Slice": 1, "Unsqueeze": 3},
        lambda row, column, scale, bias: FilterWeights(
            np.stack([row, column]), np.stack([scale, np.zeros_like(scale)]), bias
        ),
        ("position.row", "position.column", "scale", "bias"),
        lambda width: {-1, 0, 1, 2, 3, width, width + 1},
        None,
    ),
}  # fmt: skip
"""Name → form of its graph."""


def read_decoder(graph: GraphContract, model: bytes, target: Target) -> Stage | None:
    """Read the graph `decoder` of LIIF, LTE or MetaSR; None where it has another form, or rows of no whole vectors."""
    found = parse_graph(graph.key, model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.initializer}
    operators = Counter(f"{node.domain}{node.op_type}" for node in found.node)
    for form in FORMS.values():
        hidden = sum(name.startswith("network.hidden.") for name in constants) // 2
        names, products = list[str](), Counter[str]()
        if form.layers is not None:
            names = [*form.layers, *(f"network.hidden.{n}" for n in range(hidden)), "network.last"]
            products = Counter({"Gemm": CORNERS * (len(names) - 1) + 1, "Relu": CORNERS * (len(names) - 1)})
        if operators == Counter(form.operators) + products:
            return _read(form, names, graph, constants, target)
    return None


def _read(form: Form, names: list[str], graph: GraphContract, constants: Constants, target: Target) -> Stage | None:
    weights = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    weights |= set(form.weights)
    if not weights <= constants.keys() or any(constants[name].dtype != np.float32 for name in weights):
        return None
    try:
        front = form.front(*(constants[name] for name in form.weights))
        stage = Stage(front, (*_layers(form, names, constants, target),), None)
        # Refuses sizes that do not fit.
        stage.kernel(FP32, target)
    except (EngineError, ValueError):
        return None
    inputs = (*front.maps, *TAPS, *front.tables, "cell")
    others = np.concatenate([value.ravel() for name, value in constants.items() if name not in weights])
    expected = {np.float32(value) for value in form.constants(front.gather.width)}
    is_known = [tensor.name for tensor in graph.inputs] == list(inputs) and set(others.astype(np.float32)) == expected
    return stage if is_known else None


def _layers(form: Form, names: list[str], constants: Constants, target: Target) -> list[LayerWeights]:
    products = [Product(constants[f"{name}.weight"].T, constants[f"{name}.bias"]) for name in names]
    layers = [
        LayerWeights(product, None, activation="relu", is_sparse=name not in (form.layers or ()))
        for name, product in zip(names, products[:-1], strict=False)
    ]
    return [*layers, *(LayerWeights(None, padded(last, target.lanes), is_last=True) for last in products[-1:])]
