"""A decoder's maps in native code: which graphs are read, and that values are those of ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hiif_deploy import EngineError, EngineOptions
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.loader import open_bundle, shipped_models
from hiif_engines.native.backend import NativeBackend
from hiif_engines.native.check import EXACT
from hiif_engines.native.crew import Crew
from hiif_engines.native.maps import NativeMaps, read_maps
from hiif_engines.native.products.precision import PRECISIONS
from hiif_engines.native.target import Target
from native_targets import every_precision
from tolerances import rounding_error

pytestmark = pytest.mark.processor

MODEL = "hiif-live"


def opened(target: Target, name: str, precision: str = "fp32") -> NativeMaps:
    bundle = open_bundle(name)
    contract = bundle.contract.chain("fp32")["maps"]
    weights = read_maps(contract, bundle.graphs["maps"], target)
    assert weights is not None
    return NativeMaps(contract, weights, target, PRECISIONS[precision], Crew())


def features(channels: int, size: tuple[int, int]) -> np.ndarray:
    """Random features of that many rows and columns, and a halo of one."""
    shape = (1, channels, size[0] + 2, size[1] + 2)
    return np.random.default_rng(size[1]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", sorted(shipped_models()))
@pytest.mark.parametrize("size", [(1, 1), (4, 1), (9, 53)])
def test_maps_of_shipped_models_are_those_of_onnx_runtime(target: Target, name: str, size: tuple[int, int]) -> None:
    bundle, native = open_bundle(name), opened(target, name)
    feeds = {"features": features(bundle.contract.encoder.channels, size)}
    known = open_session(
        native.graph, bundle.graphs["maps"], EngineOptions(engine="onnxruntime"), threads=1, keep_memory=True
    )
    wanted, found = known.run(feeds), native.run(feeds)
    assert list(found) == list(wanted)
    for tensor, value in wanted.items():
        assert found[tensor].shape == value.shape
        # Each pixel by itself: a value in the place of another deviates by more than its own size.
        assert np.linalg.norm(found[tensor] - value, axis=1).max() <= EXACT * np.linalg.norm(value, axis=1).max()


@every_precision
@pytest.mark.parametrize("name", ["hiif-compact", "hiif-live"])
def test_maps_in_other_precisions_deviate_by_their_rounding(target: Target, precision: str, name: str) -> None:
    native, exact = opened(target, name, precision), opened(target.in_float32, name)
    given = {"features": features(open_bundle(name).contract.encoder.channels, (5, 37))}
    wanted, found = exact.run(given), native.run(given)
    np.testing.assert_array_equal(found.pop("moments"), wanted.pop("moments"))
    for tensor, value in found.items():
        deviation = np.linalg.norm(value - wanted[tensor]) / np.linalg.norm(wanted[tensor])
        assert (0 if precision == "fp32" else 1e-6) <= deviation < rounding_error(precision, 1)


def test_the_order_of_the_features_in_memory_changes_no_bit(target: Target) -> None:
    native, given = opened(target, MODEL), features(16, (5, 30))
    turned = np.ascontiguousarray(given.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    one, other = native.run({"features": given}), native.run({"features": turned})
    for tensor, value in one.items():
        np.testing.assert_array_equal(other[tensor], value)


@pytest.mark.parametrize("shape", [(1, 24, 9, 9), (1, 16, 2, 9), (1, 16, 9, 2)])
def test_features_of_another_shape_are_refused(target: Target, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="graph maps: features are"):
        opened(target, MODEL).run({"features": np.zeros(shape, np.float32)})


def node(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == operator)


def padded_convolution(graph: onnx.GraphProto) -> None:
    (pads,) = (entry for entry in node(graph, "Conv").attribute if entry.name == "pads")
    pads.ints[:] = [1] * 4


def other_operator(graph: onnx.GraphProto) -> None:
    node(graph, "Mul").op_type = "Add"


def another_operator(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Relu", ["moments"], ["more"]))


def narrow_maps(graph: onnx.GraphProto) -> None:
    name = node(graph, "MatMul").input[1]
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ones((16, 24), np.float32), name))


def changed(change: Callable[[onnx.GraphProto], None]) -> bytes:
    model = onnx.load_from_string(open_bundle(MODEL).graphs["maps"])
    change(model.graph)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("change", [padded_convolution, other_operator, another_operator, narrow_maps])
def test_other_graphs_are_left_to_a_library(target: Target, change: Callable[[onnx.GraphProto], None]) -> None:
    contract = open_bundle(MODEL).contract.chain("fp32")["maps"]
    assert read_maps(contract, changed(change), target) is None


def swapped_maps(graph: onnx.GraphProto) -> None:
    split = node(graph, "Split")
    split.output[:2] = [split.output[1], split.output[0]]


def test_a_graph_that_is_connected_otherwise_is_refused() -> None:
    bundle = open_bundle(MODEL)
    other = dataclasses.replace(bundle, graphs={**bundle.graphs, "maps": changed(swapped_maps)})
    with pytest.raises(EngineError, match=r"graph maps of hiif-live does not have the architecture.*deviate by"):
        NativeBackend(other, EngineOptions(engine="native", threads=1))


def test_work_counts_the_convolution_and_four_products(target: Target) -> None:
    macs, size = opened(target, MODEL).work({"features": features(16, (4, 8))})
    assert macs == 36 * 16 * 16 // 16 * 6 * 10 + 4 * 16 * 16 * 4 * 8
    assert size > 4 * (36 * 16 * 16 + 4 * 16 * 4 * 8)
