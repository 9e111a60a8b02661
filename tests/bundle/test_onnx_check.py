"""A bundle's ONNX file that reads another file, or has parts that an export never writes, is refused unloaded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hiif_deploy.bundle.loader import open_bundle, shipped_models
from hiif_deploy.bundle.onnx_check import OPERATOR, OPERATORS, check_model
from hiif_deploy.decoding.shared_graphs import model as shared_model
from hiif_deploy.errors import BundleError

ONE = numpy_helper.from_array(np.ones(1, np.float32), "one")


def secret() -> Any:
    """A tensor whose values are those of a file of the current directory."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "one")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.txt")
    return tensor


def add(**attributes: Any) -> Any:
    return helper.make_node("Add", ["x", "one"], ["y"], **attributes)


def graph(nodes: list[Any] | None = None, weights: list[Any] | None = None, sparse: list[Any] | None = None) -> Any:
    tensors = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    return helper.make_graph(
        nodes or [add()],
        "g",
        tensors[:1],
        tensors[1:],
        [ONE] if weights is None else weights,
        sparse_initializer=sparse,
    )


def model(of: Any = None, **parts: Any) -> bytes:
    data: bytes = helper.make_model(of or graph(), **parts).SerializeToString()
    return data


def sparse() -> Any:
    return helper.make_sparse_tensor(secret(), numpy_helper.from_array(np.zeros(1, np.int64)), [4])


def doubled(times: int) -> list[Any]:
    """Constants that double their size node by node; engines fold them when they load a model."""
    names = ["one", *(f"c{n}" for n in range(times))]
    return [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in itertools.pairwise(names)]


def training() -> bytes:
    made = helper.make_model(graph())
    made.training_info.add().initialization.CopyFrom(graph(weights=[secret()]))
    data: bytes = made.SerializeToString()
    return data


def varint(value: int) -> bytes:
    """As protobuf writes it: seven bits a byte, the lowest first."""
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def field(tag: int, content: bytes) -> bytes:
    return varint(tag) + varint(len(content)) + content


def with_node(extra: bytes) -> bytes:
    """A plain model whose graph holds one more node: an `Add` of x and one, then `extra`."""
    return field(7 << 3 | 2, graph().SerializeToString() + field(1 << 3 | 2, add().SerializeToString() + extra))


def with_weight(extra: bytes) -> bytes:
    return field(7 << 3 | 2, graph().SerializeToString() + field(5 << 3 | 2, ONE.SerializeToString() + extra))


def split(nodes: list[Any]) -> bytes:
    """A model with the nodes in one graph field and the weights in another: protobuf merges them."""
    return model(graph(nodes, weights=[])) + field(7 << 3 | 2, onnx.GraphProto(initializer=[ONE]).SerializeToString())


def constant_with(extra: bytes) -> bytes:
    """A node that reads constants only, beside what protobuf skips."""
    node = helper.make_node("Concat", ["one", "one"], ["c"], axis=0).SerializeToString()
    return field(7 << 3 | 2, field(1 << 3 | 2, node + extra) + graph().SerializeToString())


ALIAS = 1 << 32
"""Added to a tag, it leaves the 32 bits that protobuf's C++ readers keep as they were."""
BODY = graph(weights=[secret()])
FUNCTION = helper.make_function("f", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "weight": (lambda: model(graph(weights=[secret()])), "external data"),
    "attribute": (lambda: model(graph([add(value=secret())])), "external data"),
    "attribute's list": (lambda: model(graph([add(values=[secret()])])), "external data"),
    "sparse weight": (lambda: model(graph(sparse=[sparse()])), "sparse tensors"),
    "sparse attribute": (lambda: model(graph([add(value=sparse())])), "a sparse tensor"),
    "sub-graph": (lambda: model(graph([add(body=BODY)])), "a sub-graph"),
    "sub-graphs": (lambda: model(graph([add(bodies=[BODY])])), "sub-graphs"),
    "function": (lambda: model(functions=[FUNCTION]), "functions"),
    "training": (training, "training information"),
    "loop": (lambda: model(graph([helper.make_node("Loop", ["x"], ["y"])])), "operator 'Loop'"),
    "domain": (
        lambda: model(graph([helper.make_node("Add", ["x", "one"], ["y"], domain="com.microsoft")])),
        "operator 'com.microsoft.Add'",
    ),
    "concat bomb": (lambda: model(graph([*doubled(40), add()])), "only constants"),
    "concat bomb in two graphs": (lambda: split([*doubled(40), add()]), "field 7 of model twice"),
    "graph twice": (lambda: model() + field(7 << 3 | 2, graph().SerializeToString()), "field 7 of model twice"),
    "graph name twice": (lambda: field(7 << 3 | 2, graph().SerializeToString() + field(2 << 3 | 2, b"h")),
                         "field 2 of graph twice"),
    "operator twice": (lambda: with_node(field(OPERATOR << 3 | 2, b"Mul")), "field 4 of node twice"),
    "values twice": (lambda: with_weight(field(9 << 3 | 2, b"1234")), "field 9 of tensor twice"),
    "attribute twice": (lambda: with_node(field(5 << 3 | 2, field(5 << 3 | 2, b"") * 2)), "field 5 of attribute twice"),
    "aliased operator": (lambda: with_node(field((4 << 3 | 2) + ALIAS, b"Loop")), "field tag a280808010"),
    "aliased external data": (lambda: with_weight(field((13 << 3 | 2) + ALIAS, b"")), "field tag ea80808010"),
    "aliased location": (lambda: with_weight(varint((14 << 3) + ALIAS) + b"\1"), "field tag f080808010"),
    "long tag": (lambda: with_weight(b"\xf0\x00\x01"), "field tag f000"),
    "field 0": (lambda: model() + b"\x02\x00", "field tag 02"),
    "input of 8 bytes": (lambda: constant_with(b"\x09" + b"x" * 8), "field 1 of a node has wire type 1"),
    "no inputs": (lambda: model(graph([helper.make_node("Add", [], ["c"]), add()])), "only constants"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_export_never_writes_is_refused_with_the_graphs_name(name: str) -> None:
    make, what = REFUSED[name]
    with pytest.raises(BundleError, match=f"^graph maps: its file (has|is no ONNX model) .*{what}.*") as caught:
        check_model("maps", make())
    assert "\n" not in str(caught.value)


def test_a_plain_graph_and_the_runtimes_own_are_taken() -> None:
    check_model("maps", model())
    check_model("crop", shared_model("crop-float32"))


def test_external_data_is_found_however_its_number_is_written() -> None:
    # 4294967297 is 1 to a reader of 32 bits.
    location = b"\x70" + b"\x81\x80\x80\x80\x10"
    tensor = b"\x2a" + bytes([len(location)]) + location
    with pytest.raises(BundleError, match="external data"):
        check_model("maps", b"\x3a" + bytes([len(tensor)]) + tensor)


@pytest.mark.parametrize("size", [1, 3, 10, 40])
def test_a_truncated_model_is_no_model(size: int) -> None:
    with pytest.raises(BundleError, match="graph maps: its file is no ONNX model"):
        check_model("maps", model()[:-size])


def test_groups_that_protobuf_skips_are_refused() -> None:
    with pytest.raises(BundleError, match="wire type 3"):
        check_model("maps", model() + b"\x7b\x7c")


def test_every_shipped_graph_has_listed_operators_only() -> None:
    found = {
        node.op_type
        for name in shipped_models()
        for data in open_bundle(name).graphs.values()
        for node in onnx.load_from_string(data).graph.node
    }
    assert found <= OPERATORS
