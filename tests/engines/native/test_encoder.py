"""Encoders in native code: which graphs are read, and that features are those of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hiif_deploy import EngineOptions
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.loader import open_bundle, shipped_models
from hiif_deploy.images.samples import sample
from hiif_engines.native.check import EXACT
from hiif_engines.native.crew import Crew
from hiif_engines.native.encoder import NativeEncoder
from hiif_engines.native.encoder_graph import read_encoder
from hiif_engines.native.target import Target

pytestmark = pytest.mark.processor


def graph(nodes: Sequence[onnx.NodeProto], **weights: NDArray[np.float32]) -> bytes:
    """A model x [1, C, h, w] → y of the given operations."""
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, "h", "w"]) for name in "xy"]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    model: bytes = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)).SerializeToString()
    return model


def convolution(source: str, target: str, **options: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w", "b"], [target], **{"pads": [1] * 4, **options})


WEIGHTS = {"w": np.ones((3, 3, 3, 3), np.float32), "b": np.zeros(3, np.float32)}


@pytest.mark.parametrize("name", sorted(shipped_models()))
@pytest.mark.parametrize("size", [(1, 1), (37, 53)])
def test_features_of_shipped_models_are_those_of_onnx_runtime(
    own_target: Target, name: str, size: tuple[int, int]
) -> None:
    bundle = open_bundle(name)
    contract = bundle.contract.chain("fp32")["encoder"]
    layers = read_encoder(bundle.graphs["encoder"])
    assert layers is not None
    known = open_session(
        contract, bundle.graphs["encoder"], EngineOptions(engine="onnxruntime"), threads=1, keep_memory=True
    )
    # Of noise, trained encoders amplify rounding errors a thousand times.
    image = (sample("coffee")[: size[0], : size[1]].transpose(2, 0, 1)[None] / 127.5 - 1).astype(np.float32)
    wanted = known.run({"image": image})["features"]
    one, many = (
        NativeEncoder(contract, layers, threads, own_target, Crew()).run({"image": image})["features"]
        for threads in (1, 3)
    )
    np.testing.assert_array_equal(one, many)
    assert one.shape == wanted.shape
    # A misread graph deviates by more than half.
    assert np.linalg.norm(one - wanted) <= EXACT * np.linalg.norm(wanted)


def test_relu_and_sums_are_joined_with_the_convolution_before_them() -> None:
    nodes = [
        convolution("x", "a"), helper.make_node("Relu", ["a"], ["r"]), convolution("r", "c"),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]  # fmt: skip
    layers = read_encoder(graph(nodes, **WEIGHTS))
    assert layers is not None
    assert [(one.parts[0].source, one.target, one.activation, one.added) for one in layers] == [
        ("x", "r", "relu", ""), ("r", "y", "none", "x"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Sigmoid", ["x"], ["y"])],
        [convolution("x", "y", strides=[2, 2])],
        [convolution("x", "y", pads=[0] * 4)],
        [convolution("x", "y", group=3)],
        [convolution("x", "y", dilations=[2, 2])],
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        [helper.make_node("Relu", ["x"], ["y"])],
        [convolution("x", "a"), helper.make_node("Add", ["a", "a"], ["y"])],
        [convolution("x", "a")],
    ],
)  # fmt: skip
def test_other_operations_are_left_to_a_library(nodes: list[onnx.NodeProto]) -> None:
    assert read_encoder(graph(nodes, **WEIGHTS)) is None


@pytest.mark.parametrize(
    "weights",
    [
        {"w": np.ones((3, 16, 3, 3), np.float32), "b": np.zeros(3, np.float32)},
        {"w": np.ones((3, 3, 3, 3), np.float32), "b": np.zeros(1, np.float32)},
    ],
)
def test_weights_of_other_sizes_than_the_planes_are_never_run(weights: dict[str, NDArray[np.float32]]) -> None:
    assert read_encoder(graph([convolution("x", "y")], **weights)) is None


def test_a_sum_that_repeats_one_channel_is_left_to_a_library() -> None:
    one = {"v": np.ones((1, 3, 3, 3), np.float32), "c": np.zeros(1, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "v", "c"], ["a"], pads=[1] * 4), convolution("x", "d"),
        helper.make_node("Add", ["a", "d"], ["y"]),
    ]  # fmt: skip
    assert read_encoder(graph(nodes, **WEIGHTS, **one)) is None


def test_work_counts_the_transformed_products_of_whole_tiles(own_target: Target) -> None:
    bundle = open_bundle("hiif-live")
    layers = read_encoder(bundle.graphs["encoder"])
    assert layers is not None
    encoder = NativeEncoder(bundle.contract.chain("fp32")["encoder"], layers, 1, own_target, Crew())
    macs, size = encoder.work({"image": np.zeros((1, 3, 6, 6), np.float32)})
    plain = sum(9 * sum(kind.planes) * kind.outputs for kind in (layer.kind(own_target) for layer in layers))
    assert macs == plain // 4 * 10 * 10
    assert size > 4 * 36 * 16 * 16
