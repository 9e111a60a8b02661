"""The double of TensorRT parses models as the real parser does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from double_bench import Bench, load_rtx, model
from hiif_deploy.bundle.loader import open_bundle


def broken(change: Callable[[Any], object]) -> onnx.ModelProto:
    changed = model()
    change(changed.graph)
    return changed


PARSED: dict[str, tuple[bytes | onnx.ModelProto, list[str]]] = {
    "a good model": (model(), []),
    "fp32": (model(TensorProto.FLOAT), []),
    "double precision": (model(TensorProto.DOUBLE), []),
    "nothing": (b"", []),
    "garbage": (b"\xff\xfe\xfd" * 20, ["MODEL_DESERIALIZE_FAILED"]),
    "a truncated model": (model().SerializeToString()[:-40], ["MODEL_DESERIALIZE_FAILED"]),
    "an unknown operator": (broken(lambda g: setattr(g.node[0], "op_type", "Foo")), ["INVALID_NODE"]),
    "a missing tensor": (broken(lambda g: g.node[0].input.__setitem__(1, "nope")), ["INVALID_GRAPH"]),
    "mixed types": (model(TensorProto.FLOAT16, TensorProto.FLOAT), ["INVALID_NODE"]),
}


@pytest.mark.parametrize("what", PARSED)
def test_the_parser_takes_and_refuses_the_same_models(what: str, bench: Bench) -> None:
    source, errors = PARSED[what]
    assert bench.parse(source) is (not errors)
    assert bench.errors() == errors
    assert bool(bench.said) is bool(errors)


def test_only_one_model_is_parsed(bench: Bench) -> None:
    assert bench.parse(model())
    assert not bench.parse(model())


def test_external_weights_are_found_from_a_path_only(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert not bench.parse(path.read_bytes())
    assert bench.errors() == ["INVALID_GRAPH"]
    second, third = Bench(bench.trt), Bench(bench.trt)
    assert second.parser.parse_from_file(str(path))
    assert second.network.num_layers >= 3
    (tmp_path / "weights.bin").unlink()
    assert not third.parser.parse_from_file(str(path))
    assert third.errors() == ["INVALID_GRAPH"]


def test_a_missing_file_is_an_invalid_value(bench: Bench, tmp_path: Path) -> None:
    assert not bench.parser.parse_from_file(str(tmp_path / "none.onnx"))
    assert bench.errors() == ["INVALID_VALUE"]


def typing(network: Any) -> dict[str, tuple[str, int]]:
    """Tensor → its type and rank, of all layers' outputs, inputs and outputs."""
    found = {}
    for layer in (network.get_layer(n) for n in range(network.num_layers)):
        for tensor in (layer.get_output(n) for n in range(layer.num_outputs)):
            found[tensor.name] = (tensor.dtype.name, len(tensor.shape))
    for tensor in (network.get_input(n) for n in range(network.num_inputs)):
        found[tensor.name] = (tensor.dtype.name, len(tensor.shape))
    return found


def layers(network: Any) -> dict[str, str]:
    """Layer → its type, of those that carry a node's name."""
    return {(found := network.get_layer(n)).name: found.type.name for n in range(network.num_layers)}


def both(double: Any, source: bytes) -> tuple[Bench, Bench]:
    ours, real = Bench(double), Bench(load_rtx())
    assert ours.parse(source), ours.said
    assert real.parse(source), real.said
    return ours, real


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE])
def test_a_small_model_has_the_real_parsers_types(double: Any, kind: int) -> None:
    ours, real = both(double, model(kind).SerializeToString())
    expected = typing(real.network)
    assert {name: expected[name] for name in "xgry"} == {name: typing(ours.network)[name] for name in "xgry"}
    kinds = layers(real.network)
    assert {name: kinds[name] for name in ("gemm", "relu", "cast")} == {
        name: layers(ours.network)[name] for name in ("gemm", "relu", "cast")
    }


def test_nodes_without_a_name_are_named_after_their_output(bench: Bench) -> None:
    unnamed = model()
    for node in unnamed.graph.node:
        node.name = ""
    bench.parse(unnamed)
    assert {"node_of_g", "node_of_r", "node_of_y"} <= set(layers(bench.network))


def test_every_graph_of_a_bundle_has_the_real_parsers_types(double: Any, tiny_bundle: Path) -> None:
    compared = 0
    for name, source in open_bundle(tiny_bundle).graphs.items():
        if name.startswith("fold"):
            continue
        ours, real = (typing(side.network) for side in both(double, source))
        common = ours.keys() & real.keys()
        assert {tensor: ours[tensor] for tensor in common} == {tensor: real[tensor] for tensor in common}
        compared += len(common)
    assert compared > 60
