"""The real parser takes every graph, typed as its name says, and what it cannot take is explained."""

from __future__ import annotations

import dataclasses

import onnx
import pytest

from hiif_deploy.backends.tensorrt.library import Library, Messages, type_name
from hiif_deploy.bundle.contract import GraphContract, Precision, is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import EngineError, HiifError
from hiif_engines.tensorrt.network import check_types, parse_network


def parse(rtx: Library, graph: GraphContract, model: bytes) -> None:
    """Everything that the library points into stays alive until the end."""
    messages = Messages(rtx)
    builder = rtx.module.Builder(messages.logger)
    parse_network(rtx, builder, messages, graph, model)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_graph_of_every_encoder_is_parsed_and_has_the_types_that_it_claims(
    rtx: Library, encoder_bundle: Bundle, precision: Precision
) -> None:
    chain = encoder_bundle.contract.chain(precision)
    assert sum(not is_fold(name) for name in chain) == 5
    for name, graph in chain.items():
        if not is_fold(name):
            parse(rtx, graph, encoder_bundle.graphs[graph.key])


@pytest.mark.parametrize("name", ["encoder", "maps", "statistics_0", "statistics_1", "decoder"])
def test_an_fp32_file_under_the_name_of_fp16_is_refused(rtx: Library, half: Bundle, name: str) -> None:
    claimed = dataclasses.replace(half.contract.graph(name), precision="fp16")
    message = rf"graph {name}.fp16: layer .* computes in FLOAT, wanted HALF; an engine of it must not be called fp16"
    with pytest.raises(EngineError, match=message):
        parse(rtx, claimed, half.graphs[name])


def test_one_product_in_float32_is_enough_to_be_refused(rtx: Library, half: Bundle) -> None:
    graph = half.contract.graph("decoder", "fp16")
    model = onnx.load_from_string(half.graphs[graph.key])
    (node,) = [n for n in model.graph.node if n.output[0] == model.graph.output[0].name]
    assert node.op_type == "Cast"
    product = next(n for n in reversed(model.graph.node) if n.op_type == "Gemm")
    wide = [f"{name}_wide" for name in product.input]
    casts = [
        onnx.helper.make_node("Cast", [old], [f"{new}_cast"], to=onnx.TensorProto.FLOAT)
        for old, new in zip(product.input, wide, strict=True)
    ]
    # Without these, casts on either side would ask for half's product with sums in float32.
    kept = [onnx.helper.make_node("Neg", [f"{name}_cast"], [name]) for name in wide]
    narrow = onnx.helper.make_node("Cast", ["wide_product"], [product.output[0]], to=onnx.TensorProto.FLOAT16)
    position = list(model.graph.node).index(product)
    replacement = onnx.helper.make_node("Gemm", wide, ["wide_product"], name="crept_in")
    replacement.attribute.extend(product.attribute)
    nodes = list(model.graph.node)
    nodes[position : position + 1] = [*casts, *kept, replacement, narrow]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(EngineError, match="layer crept_in computes in FLOAT, wanted HALF"):
        parse(rtx, graph, model.SerializeToString())


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_explained(rtx: Library, half: Bundle, keep: float) -> None:
    graph, data = half.contract.graph("decoder"), half.graphs["decoder"]
    with pytest.raises(
        HiifError,
        match=r"^graph decoder: (tensorrt-rtx .* cannot parse its model: [\w(]|its model holds|its file is no ONNX)",
    ):
        parse(rtx, graph, data[: int(keep * len(data))])


def half_products(rtx: Library, graph: GraphContract, model: bytes) -> list[set[str]]:
    """Of every large product of a parsed graph: types of its casts' sources, its own, and of what reads its result."""
    messages = Messages(rtx)
    network = parse_network(rtx, rtx.module.Builder(messages.logger), messages, graph, model)
    kinds, layers = rtx.module.LayerType, [network.get_layer(n) for n in range(network.num_layers)]
    casts = {layer.get_output(0).name: layer for layer in layers if layer.type == kinds.CAST}
    found = []
    for layer in layers:
        sources = [casts.get(layer.get_input(n).name) for n in range(layer.num_inputs)]
        if layer.type == kinds.MATRIX_MULTIPLY and None not in sources:
            behind = [cast for cast in casts.values() if cast.get_input(0).name == layer.get_output(0).name]
            found.append({type_name(cast.get_input(0).dtype) for cast in sources if cast is not None})
            found[-1] |= {
                f"{type_name(layer.get_output(0).dtype)} to {type_name(cast.get_output(0).dtype)}" for cast in behind
            }
    return found


@pytest.mark.parametrize(("name", "count"), [("statistics_0", 1), ("statistics_1", 4), ("decoder", 15)])
def test_fp16_products_are_summed_in_float32(rtx: Library, half: Bundle, name: str, count: int) -> None:
    graph = half.contract.graph(name, "fp16")
    found = half_products(rtx, graph, half.graphs[graph.key])
    assert found == [{"HALF", "FLOAT to HALF"}] * count


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
