"""SPAN encoders in native code, and graphs that only look like them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from cached_export import cached_to_onnx
from hiif_deploy.bundle.contract import GraphContract
from hiif_engines.native.check import EXACT
from hiif_engines.native.encoder_graph import read_encoder
from hiif_engines.native.target import Target
from hiif_export.graphs.exporter import make_exporter
from hiif_export.graphs.onnx_file import tensor_contracts
from hiif_training.models.registry import make_model
from plane_layers import deviation

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.processor

BLOCKS, FEATURES = 3, 24
SPAN = {"name": "span", "args": {"num_blocks": BLOCKS, "feature_channels": FEATURES, "no_upsampling": True}}
SPEC = {"name": "hiif", "args": {"encoder_spec": SPAN, "hidden_dim": 16, "mlp_dim": 16, "attention_blocks": 0}}


@cache
def exported() -> tuple[GraphContract, bytes]:
    """The encoder's contract and file, with weights that make every part of it matter."""
    torch.manual_seed(11)
    model = make_model(SPEC).eval()
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.mul_(2.0)
    (graph,) = (graph for graph in make_exporter(model, SPEC).graphs("fp32") if graph.name == "encoder")
    inputs, outputs = tensor_contracts(graph)
    contract = GraphContract("encoder", "encoder.onnx", "", inputs, outputs, "fp32")
    return contract, cached_to_onnx(graph).SerializeToString()


def changed(change: Callable[[onnx.GraphProto], object]) -> bytes:
    """The exported encoder with a change of its graph."""
    model = onnx.load_from_string(exported()[1])
    change(model.graph)
    data: bytes = model.SerializeToString()
    return data


def nodes(graph: onnx.GraphProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == operator]


def set_constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> None:
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


@pytest.mark.parametrize("size", [(1, 1), (37, 53)])
@pytest.mark.parametrize("threads", [1, 3])
def test_features_are_those_of_onnx_runtime(own_target: Target, size: tuple[int, int], threads: int) -> None:
    # A misread graph deviates by more than half.
    assert deviation(own_target, *exported(), size, threads) <= EXACT


def test_a_convolution_and_what_follows_it_are_one_layer() -> None:
    layers = read_encoder(exported()[1])
    assert layers is not None
    assert [layer.activation for layer in layers] == ["none", *["silu", "silu", "gate"] * BLOCKS, "none"]
    # Of the joined planes, those of the first and last convolution are merged with what made them.
    assert [part.weights.shape[1:] for part in layers[-1].parts] == [
        (FEATURES, 1, 1), (FEATURES, 1, 1), (3, 3, 3), (FEATURES, 3, 3),
    ]  # fmt: skip


def other_constant(graph: onnx.GraphProto) -> None:
    set_constant(graph, nodes(graph, "Sub")[0].input[1], np.array(0.25))


def turned_subtraction(graph: onnx.GraphProto) -> None:
    node = nodes(graph, "Sub")[0]
    node.input[:] = [node.input[1], node.input[0]]


def other_gate(graph: onnx.GraphProto) -> None:
    first, second, *_ = nodes(graph, "Sub")
    second.input[0] = first.input[0]


def other_sigmoid(graph: onnx.GraphProto) -> None:
    first, second, *_ = (node for node in nodes(graph, "Mul") if node.output[0].startswith("silu"))
    second.input[:] = [second.input[0], next(name for name in first.input if name.startswith("val"))]


def gate_without_sum(graph: onnx.GraphProto) -> None:
    node = next(node for node in nodes(graph, "Mul") if not node.output[0].startswith("silu"))
    convolution = nodes(graph, "Add")[0].input[0]
    node.input[:] = [convolution, nodes(graph, "Sub")[0].output[0]]


def gate_of_an_activation(graph: onnx.GraphProto) -> None:
    convolution = nodes(graph, "Add")[0].input[0]
    at = next(n for n, node in enumerate(graph.node) if node.op_type == "Sigmoid" and node.input[0] == convolution)
    graph.node[at].input[0] = "activated"
    graph.node.insert(at, helper.make_node("Relu", [convolution], ["activated"]))


def other_axis(graph: onnx.GraphProto) -> None:
    nodes(graph, "Concat")[0].attribute[0].i = 2


def larger_kernel(graph: onnx.GraphProto) -> None:
    node = nodes(graph, "Conv")[1]
    set_constant(graph, node.input[1], np.ones((FEATURES, FEATURES, 5, 5)))
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("pads", [2] * 4))


def padded_point(graph: onnx.GraphProto) -> None:
    (pads,) = (entry for entry in nodes(graph, "Conv")[-1].attribute if entry.name == "pads")
    pads.ints[:] = [1] * 4


def missing_plane(graph: onnx.GraphProto) -> None:
    del nodes(graph, "Concat")[0].input[1]


@pytest.mark.parametrize(
    "change",
    [
        other_constant, turned_subtraction, other_gate, other_sigmoid, gate_without_sum, gate_of_an_activation,
        other_axis, larger_kernel, padded_point, missing_plane,
    ],
)  # fmt: skip
def test_what_only_looks_like_span_is_left_to_a_library(change: Callable[[onnx.GraphProto], object]) -> None:
    assert read_encoder(changed(change)) is None


def repeated_plane(graph: onnx.GraphProto) -> None:
    node = nodes(graph, "Concat")[0]
    node.input[:] = [node.input[n] for n in (0, 1, 1, 3)]


def read_before_its_activation(graph: onnx.GraphProto) -> None:
    """The second block's convolution reads what the first SiLU of the first block reads too."""
    silu = next(node for node in nodes(graph, "Mul") if node.output[0].startswith("silu"))
    convolution = next(name for name in silu.input if not name.startswith("val"))
    nodes(graph, "Conv")[4].input[0] = convolution


def only_points(graph: onnx.GraphProto) -> None:
    node = nodes(graph, "Concat")[0]
    node.input[:] = [*node.input[2:], *node.input[2:]]


@pytest.mark.parametrize("change", [repeated_plane, read_before_its_activation, only_points])
def test_a_plane_that_is_read_twice_has_the_same_values(
    own_target: Target, change: Callable[[onnx.GraphProto], object]
) -> None:
    assert deviation(own_target, exported()[0], changed(change), (13, 21)) <= EXACT
