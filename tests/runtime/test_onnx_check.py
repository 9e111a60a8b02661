"""A bundle's ONNX file that reads another file, or has parts that an export never writes, is refused unloaded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hiif_deploy.bundle import open_bundle, shipped_models
from hiif_deploy.errors import BundleError
from hiif_deploy.onnx_check import OPERATORS, check_model
from hiif_deploy.onnx_crop import crop_model

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
    "no inputs": (lambda: model(graph([helper.make_node("Add", [], ["c"]), add()])), "only constants"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_export_never_writes_is_refused_with_the_graphs_name(name: str) -> None:
    make, what = REFUSED[name]
    with pytest.raises(BundleError, match=f"^graph maps: its file has .*{what}.* refused") as caught:
        check_model("maps", make())
    assert "\n" not in str(caught.value)


def test_a_plain_graph_and_the_runtimes_own_are_taken() -> None:
    check_model("maps", model())
    check_model("crop", crop_model("float32"))


def test_a_field_written_twice_does_not_hide_the_first() -> None:
    # A later field overwrites an earlier one, and of messages both are merged: protobuf would read either.
    with pytest.raises(BundleError, match="external data"):
        check_model("maps", model(graph(weights=[secret()])) + model())
    with pytest.raises(BundleError, match="external data"):
        check_model("maps", model() + model(graph(weights=[secret()])))


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
