"""RDN encoders in native code, graphs that only look like them, and encoders that are left to a library."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from cached_export import cached_to_onnx, shared_bundle
from hiif_deploy import EngineOptions, Upscaler
from hiif_deploy.bundle.contract import GraphContract
from hiif_engines.native.check import EXACT
from hiif_engines.native.crew import Crew
from hiif_engines.native.encoder import NativeEncoder
from hiif_engines.native.encoder_graph import read_encoder
from hiif_engines.native.target import Target
from hiif_export.graphs.exporter import make_exporter
from hiif_export.graphs.onnx_file import tensor_contracts
from hiif_export.parity.parity import cases
from hiif_training.models.registry import make_model
from plane_layers import deviation

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.processor

BLOCKS, LAYERS, GROWTH, FEATURES = 2, 3, 16, 24
ENCODERS = {
    "rdn": {"D": BLOCKS, "C": LAYERS, "G": GROWTH, "G0": FEATURES, "no_upsampling": True},
    "swinir": {"embed_dim": 16, "depths": [2], "num_heads": [2], "num_feat": 16, "no_upsampling": True},
}
DECODER = {"hidden_dim": 16, "mlp_dim": 16, "levels": 2, "attention_blocks": 0}


def spec(name: str) -> dict[str, object]:
    return {"name": "hiif", "args": {"encoder_spec": {"name": name, "args": ENCODERS[name]}, **DECODER}}


@cache
def exported() -> tuple[GraphContract, bytes]:
    """The encoder's contract and file."""
    torch.manual_seed(3)
    model = make_model(spec("rdn")).eval()
    (graph,) = (graph for graph in make_exporter(model, spec("rdn")).graphs("fp32") if graph.name == "encoder")
    inputs, outputs = tensor_contracts(graph)
    contract = GraphContract("encoder", "encoder.onnx", "", inputs, outputs, "fp32")
    return contract, cached_to_onnx(graph).SerializeToString()


@pytest.mark.parametrize("size", [(1, 1), (37, 53)])
@pytest.mark.parametrize("threads", [1, 3])
def test_features_are_those_of_onnx_runtime(own_target: Target, size: tuple[int, int], threads: int) -> None:
    # A misread graph deviates by more than half.
    assert deviation(own_target, *exported(), size, threads) <= EXACT


def test_joined_planes_are_parts_of_a_layer() -> None:
    layers = read_encoder(exported()[1])
    assert layers is not None
    shapes = [[(part.weights.shape[1], part.weights.shape[2]) for part in layer.parts] for layer in layers]
    dense = [[(FEATURES, 3), *[(GROWTH, 3)] * n] for n in range(LAYERS)]
    fusion = [(FEATURES, 1), *[(GROWTH, 1)] * LAYERS]
    assert shapes == [
        [(3, 3)], [(FEATURES, 3)], *[*dense, fusion] * BLOCKS, [(FEATURES, 1)] * BLOCKS, [(FEATURES, 3)],
    ]  # fmt: skip
    assert [layer.activation for layer in layers] == [
        "none", "none", *[*["relu"] * LAYERS, "none"] * BLOCKS, "none", "none",
    ]  # fmt: skip


def test_work_counts_convolutions_alone_by_their_definition(own_target: Target) -> None:
    contract, model = exported()
    layers = read_encoder(model)
    assert layers is not None
    macs, _ = NativeEncoder(contract, layers, 1, own_target, Crew()).work({"image": np.zeros((1, 3, 6, 6), np.float32)})
    kinds = [layer.kind(own_target) for layer in layers]
    wanted = sum((4 if kind.is_pointwise else 9) * kind.inputs * kind.outputs for kind in kinds) // 4
    assert macs == wanted * 10 * 10


def joined_along_lines(graph: onnx.GraphProto) -> None:
    next(node for node in graph.node if node.op_type == "Concat").attribute[0].i = 2


def missing_plane(graph: onnx.GraphProto) -> None:
    del next(node for node in graph.node if node.op_type == "Concat").input[1]


def unknown_plane(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "Concat")
    graph.node.insert(0, onnx.helper.make_node("Sigmoid", [graph.input[0].name], ["other"]))
    node.input[1] = "other"


@pytest.mark.parametrize("change", [joined_along_lines, missing_plane, unknown_plane])
def test_what_only_looks_like_rdn_is_left_to_a_library(change: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load_from_string(exported()[1])
    change(model.graph)
    assert read_encoder(model.SerializeToString()) is None


@pytest.mark.parametrize(("name", "library"), [("rdn", "ONNX Runtime"), ("swinir", r"ONNX Runtime (encoder)")])
def test_the_description_names_an_encoder_that_is_left_to_a_library(
    own_target: Target, name: str, library: str
) -> None:
    torch.manual_seed(3)
    model, suite = make_model(spec(name)).eval(), cases(sizes=((9, 9),), scales=(2.0,))
    folder: Path = shared_bundle(model, spec(name), f"native-{name}", precisions=("fp32",), suite=suite)
    with Upscaler(folder, engine=EngineOptions(engine="native", isa=own_target.name)) as upscaler:
        assert upscaler.description == f"native code ({own_target.name}) and {library}, cpu, fp32"
