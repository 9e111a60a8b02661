"""Parses an ONNX model to a TensorRT network, and checks that it computes in the stated precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hiif_deploy.backends.tensorrt.library import Library, Messages, type_name
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.shared_graphs import contracts
from hiif_deploy.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt

SMALL_PRODUCT = 16
"""Inner length below which a product is a table of positions, which stays float32 (its cost is negligible)."""


def parse_network(
    library: Library, builder: trt.Builder, messages: Messages, graph: GraphContract, model: bytes
) -> trt.INetworkDefinition:
    """Rewrite and parse a graph's model, strongly typed. EngineError names graph, node and the parser's reason."""
    # Where it is used: help and checks of the build command need no onnx.
    from hiif_engines.tensorrt.rewrite import rewritten

    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.module
    # Needed on TensorRT 10, harmless on 11, where every network is strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # Set the recorder only after the network exists: before, the builder crashes the process.
    builder.error_recorder = messages.recorder
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse(rewritten(graph, model)):
        errors = [str(parser.get_error(n)) for n in range(parser.num_errors)]
        reason = "; ".join(" ".join(error.split()) for error in errors) or messages.reason()
        raise EngineError(f"graph {graph.key}: {library.name} {library.version} cannot parse its model: {reason}")
    if network.num_outputs == 0:
        # The parser accepts bytes that are no model as an empty one.
        raise EngineError(f"graph {graph.key}: its model holds no graph: it is damaged; export the bundle again")
    if graph.name not in contracts():
        check_types(library, network, graph)
    return network


def check_types(library: Library, network: trt.INetworkDefinition, graph: GraphContract) -> None:
    """Raise EngineError naming the first convolution or matrix product of an fp16 graph that is not half.

    TensorRT builds an fp32 file, strongly typed, as an fp32 engine under any name, without a warning. A product of
    casts from half counts as half: it is how `rewrite` asks for sums in float32.
    """
    wanted = "HALF" if graph.precision == "fp16" else "FLOAT"
    layers = [network.get_layer(n) for n in range(network.num_layers)]
    casts = {layer.get_output(0).name: layer.get_input(0) for layer in layers if layer.type == _kinds(library).CAST}
    products = [layer for layer in layers if _is_large_product(library, layer)]
    if not products:
        raise EngineError(f"graph {graph.key}: the parsed network holds no matrix product and no convolution")
    for layer in products:
        found = {type_name(layer.get_input(0).dtype), type_name(layer.get_output(0).dtype)}
        if layer.type == _kinds(library).MATRIX_MULTIPLY:
            found = {_type_of(layer.get_input(n), casts) for n in range(2)}
        if found != {wanted}:
            raise EngineError(
                f"graph {graph.key}: layer {layer.name} computes in {' and '.join(sorted(found))}, wanted {wanted}; "
                f"an engine of it must not be called {graph.precision}: export the bundle again"
            )


def _type_of(factor: trt.ITensor, casts: Mapping[str, trt.ITensor]) -> str:
    """Name of a factor's type: HALF also for what is cast from it."""
    source = casts.get(factor.name, factor)
    return "HALF" if type_name(source.dtype) == "HALF" else type_name(factor.dtype)


def _kinds(library: Library) -> type[trt.LayerType]:
    kinds: type[trt.LayerType] = library.module.LayerType
    return kinds


def _is_large_product(library: Library, layer: trt.ILayer) -> bool:
    """Return whether a layer is a convolution, or a matrix product over queries or pixels (not tables, nor statistics
    sums)."""
    kinds = _kinds(library)
    if layer.type in (kinds.CONVOLUTION, kinds.DECONVOLUTION):
        return True
    if layer.type != kinds.MATRIX_MULTIPLY:
        return False
    inner = layer.get_input(0).shape[-1]
    return any(size < 0 for size in tuple(layer.get_output(0).shape)[-2:]) and not 0 <= inner < SMALL_PRODUCT
