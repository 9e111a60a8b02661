"""The real parser takes every graph, typed as its name says, and what it cannot take is explained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest

from hiif_deploy.backends.tensorrt.library import Library, Messages
from hiif_deploy.bundle.contract import GraphContract, Precision, is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import EngineError
from hiif_engines.tensorrt.network import check_inputs, check_types, parse_network


def parse(rtx: Library, graph: GraphContract, file: Path) -> None:
    """Everything that the library points into stays alive until the end."""
    messages = Messages(rtx)
    builder = rtx.module.Builder(messages.logger)
    parse_network(rtx, builder, messages, graph, file)


def graph_file(bundle: Bundle, graph: GraphContract, folder: Path) -> Path:
    path = folder / f"{graph.key}.onnx"
    path.write_bytes(bundle.graphs[graph.key])
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_graph_of_every_encoder_is_parsed_and_has_the_types_that_it_claims(
    rtx: Library, encoder_bundle: Bundle, precision: Precision, tmp_path: Path
) -> None:
    chain = encoder_bundle.contract.chain(precision)
    assert sum(not is_fold(name) for name in chain) == 5
    for name, graph in chain.items():
        if not is_fold(name):
            parse(rtx, graph, graph_file(encoder_bundle, graph, tmp_path))


@pytest.mark.parametrize("name", ["encoder", "maps", "statistics_0", "statistics_1", "decoder"])
def test_an_fp32_file_under_the_name_of_fp16_is_refused(rtx: Library, half: Bundle, name: str, tmp_path: Path) -> None:
    file = graph_file(half, half.contract.graph(name), tmp_path)
    claimed = dataclasses.replace(half.contract.graph(name), precision="fp16")
    message = rf"graph {name}.fp16: layer .* computes in FLOAT, wanted HALF; an engine of it must not be called fp16"
    with pytest.raises(EngineError, match=message):
        parse(rtx, claimed, file)


def test_one_product_in_float32_is_enough_to_be_refused(rtx: Library, half: Bundle, tmp_path: Path) -> None:
    graph = half.contract.graph("decoder", "fp16")
    model = onnx.load_from_string(half.graphs[graph.key])
    (node,) = [n for n in model.graph.node if n.output[0] == model.graph.output[0].name]
    assert node.op_type == "Cast"
    product = next(n for n in reversed(model.graph.node) if n.op_type == "Gemm")
    wide = [f"{name}_wide" for name in product.input]
    casts = [
        onnx.helper.make_node("Cast", [old], [new], to=onnx.TensorProto.FLOAT)
        for old, new in zip(product.input, wide, strict=True)
    ]
    narrow = onnx.helper.make_node("Cast", ["wide_product"], [product.output[0]], to=onnx.TensorProto.FLOAT16)
    position = list(model.graph.node).index(product)
    replacement = onnx.helper.make_node("Gemm", wide, ["wide_product"], name="crept_in")
    replacement.attribute.extend(product.attribute)
    nodes = list(model.graph.node)
    nodes[position : position + 1] = [*casts, replacement, narrow]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    file = tmp_path / "decoder.onnx"
    onnx.save(model, file)
    with pytest.raises(EngineError, match="layer crept_in computes in FLOAT, wanted HALF"):
        parse(rtx, graph, file)


def test_inputs_that_differ_from_the_contract_are_named(rtx: Library, half: Bundle, tmp_path: Path) -> None:
    graph = half.contract.graph("encoder")
    other = dataclasses.replace(graph, inputs=(dataclasses.replace(graph.inputs[0], shape=(1, 4, "height", "width")),))
    with pytest.raises(EngineError, match=r"differs from the contract: image is .*\(1, 3, -1, -1\).* promised"):
        parse(rtx, other, graph_file(half, graph, tmp_path))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_explained(rtx: Library, half: Bundle, keep: float, tmp_path: Path) -> None:
    graph = half.contract.graph("decoder", "fp16")
    data = half.graphs[graph.key]
    (tmp_path / "cut.onnx").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(
        EngineError,
        match=r"^graph decoder.fp16: (tensorrt-rtx .* cannot parse cut.onnx: [\w(]|cut.onnx holds no graph)",
    ):
        parse(rtx, graph, tmp_path / "cut.onnx")


def test_weights_in_a_second_file_that_is_not_there_are_explained(rtx: Library, half: Bundle, tmp_path: Path) -> None:
    graph = half.contract.graph("decoder")
    model = onnx.load_from_string(half.graphs[graph.key])
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    parse(rtx, graph, tmp_path / "m.onnx")
    (tmp_path / "weights.bin").rename(tmp_path / "moved.bin")
    with pytest.raises(EngineError, match=r"cannot parse m.onnx: .*Failed to import initializer"):
        parse(rtx, graph, tmp_path / "m.onnx")


def test_a_network_without_products_is_no_engine_of_ours(rtx: Library, half: Bundle) -> None:
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, "h", "w"]) for name in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", tensors[:1], tensors[1:]), opset_imports=[onnx.helper.make_opsetid("", 20)]
    )
    messages = Messages(rtx)
    builder = rtx.module.Builder(messages.logger)
    network = builder.create_network(1 << int(rtx.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.module.OnnxParser(network, messages.logger)
    assert parser.parse(model.SerializeToString())
    with pytest.raises(EngineError, match="holds no matrix product"):
        check_types(rtx, network, half.contract.graph("encoder"))
    with pytest.raises(EngineError, match="differs from the contract"):
        check_inputs(network, half.contract.graph("encoder"))
