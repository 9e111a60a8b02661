"""Maps that are convolutions of the features in native code: which graphs are read, and that values are exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

pytest.importorskip("onnxscript")

from decoder_pairs import Pairs
from hiif_deploy import EngineError
from hiif_deploy.backends.options import ON_HOST
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.bundle.loader import open_bundle
from hiif_engines.native.check import EXACT
from hiif_engines.native.crew import Crew
from hiif_engines.native.maps import ConvolutionMaps, read_convolution_maps
from hiif_engines.native.target import Target

pytestmark = pytest.mark.processor

CHANNELS = 16


def graph_of(pairs: Pairs, decoder: str) -> tuple[GraphContract, bytes]:
    bundle = open_bundle(pairs.bundle(decoder, "edsr-baseline"))
    return bundle.contract.chain("fp32")["maps"], bundle.graphs["maps"]


def opened(target: Target, graph: tuple[GraphContract, bytes]) -> ConvolutionMaps:
    layers = read_convolution_maps(*graph)
    assert layers is not None
    return ConvolutionMaps(graph[0], layers, target, Crew())


def features(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[-1]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("decoder", ["liif", "lte", "metasr"])
@pytest.mark.parametrize("size", [(1, 1), (4, 1), (9, 21)])
def test_maps_are_those_of_onnx_runtime(target: Target, pairs: Pairs, decoder: str, size: tuple[int, int]) -> None:
    graph = graph_of(pairs, decoder)
    feeds = {"features": features(1, CHANNELS, size[0] + 2, size[1] + 2)}
    wanted = open_session(*graph, ON_HOST, threads=1, keep_memory=True).run(feeds)
    found = opened(target, graph).run(feeds)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        # Each pixel by itself: a value in the place of another deviates by more than its own size.
        assert np.linalg.norm(found[name] - value, axis=1).max() <= EXACT * np.linalg.norm(value, axis=1).max()


@pytest.mark.parametrize("shape", [(1, 24, 9, 9), (1, CHANNELS, 2, 9), (1, CHANNELS, 9, 2)])
def test_features_of_another_shape_are_refused(own_target: Target, pairs: Pairs, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match="graph maps: features are"):
        opened(own_target, graph_of(pairs, "liif")).run({"features": np.zeros(shape, np.float32)})


def test_work_counts_every_convolution(own_target: Target, pairs: Pairs) -> None:
    macs, size = opened(own_target, graph_of(pairs, "lte")).work({"features": features(1, CHANNELS, 6, 10)})
    assert macs == 2 * 36 * 16 * 16 // 16 * 6 * 10
    assert size > 4 * 2 * (36 * 16 * 16 + 6 * 10 * 2 * 16)


def padded(graph: onnx.GraphProto) -> None:
    (pads,) = (entry for entry in graph.node[0].attribute if entry.name == "pads")
    pads.ints[:] = [1] * 4


def another_operator(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Relu", ["map_0"], ["more"]))


def activated(graph: onnx.GraphProto) -> None:
    graph.node[0].output[0] = "before"
    graph.node.insert(1, helper.make_node("Relu", ["before"], ["conv2d"]))


def of_others(graph: onnx.GraphProto) -> None:
    graph.node[0].domain = "com.example"


@pytest.mark.parametrize("change", [padded, another_operator, activated, of_others])
def test_other_graphs_are_left_to_a_library(pairs: Pairs, change: Callable[[onnx.GraphProto], None]) -> None:
    contract, data = graph_of(pairs, "liif")
    model = onnx.load_from_string(data)
    change(model.graph)
    assert read_convolution_maps(contract, model.SerializeToString()) is None


def test_maps_of_srno_are_left_to_a_library(pairs: Pairs) -> None:
    assert read_convolution_maps(*graph_of(pairs, "sronet")) is None
