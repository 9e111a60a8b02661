"""Rewrites a bundle's graphs for TensorRT before they are parsed: how fp16 products and statistics are summed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.errors import BundleError
from hiif_engines.onnx_graph import parse_model

OUTER = "outer"
"""Output of a statistics graph: keys × values, [H, d, d], a product over all queries of a call."""
Nodes = list[NodeProto]


def rewritten(graph: GraphContract, model: bytes) -> bytes:
    """The model with its fp16 products accumulated in float32, and products over queries summed row by row; unchanged
    where it has neither. BundleError where it is damaged.

    Encoders stay as they are: of convolutions no such pattern is documented, and casts would hide an attention.
    """
    rules: dict[str, Callable[[NodeProto], Nodes]] = {}
    found = parse_model(graph.key, model)
    if graph.precision == "fp16" and graph.name != "encoder":
        halves = _halves(found)
        rules |= {n.output[0]: accumulated for n in found.graph.node if _is_product(n) and n.output[0] in halves}
    if graph.name.startswith("statistics") and any(tensor.name == OUTER for tensor in graph.outputs):
        heads, size, _ = next(tensor.shape for tensor in graph.outputs if tensor.name == OUTER)
        constants = {"heads": heads, "size": size, "rest": -1, "one": 1}
        found.graph.initializer.extend(
            numpy_helper.from_array(np.array([value], np.int64), f"{OUTER}_{name}") for name, value in constants.items()
        )
        rules[OUTER] = summed_by_rows
    if not rules:
        return model
    nodes = [new for node in found.graph.node for new in rules.get(node.output[0], _as_it_is)(node)]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return bytes(found.SerializeToString())


def accumulated(node: NodeProto) -> Nodes:
    """Nodes for an fp16 MatMul or Gemm: cast → product → cast.

    TensorRT takes these three for an fp16 product that accumulates in float32; for a bare one it may choose a kernel
    that accumulates in fp16. A bias is added behind them, because the pattern has no place for it.
    """
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if any(attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        raise BundleError(f"{node.op_type} {node.name or node.output[0]} has a factor, which no exported graph has")
    output, nodes, factors = node.output[0], [], []
    for source, side in zip(node.input, "AB", strict=False):
        if attributes.get(f"trans{side}", 0):
            nodes.append(_node("Transpose", [source], f"{output}_turned_{side}", perm=[1, 0]))
            source = f"{output}_turned_{side}"
        factors.append(f"{output}_{side}")
        nodes.append(_node("Cast", [source], factors[-1], to=TensorProto.FLOAT))
    biases = node.input[2:]
    product = f"{output}_product" if biases else output
    nodes.append(_node("MatMul", factors, f"{output}_wide", name=node.name or output))
    nodes.append(_node("Cast", [f"{output}_wide"], product, to=TensorProto.FLOAT16))
    return [*nodes, *([_node("Add", [product, *biases], output)] if biases else [])]


def summed_by_rows(node: NodeProto) -> Nodes:
    """Nodes for [H, d, N] × [H, N, d]: a batch of products over one row of queries each, and their sum.

    The H products by themselves would fill few multiprocessors, and add up all N terms one after the other in float32.
    """
    keys, values = node.input
    heads, size, rest, one = (f"{OUTER}_{name}" for name in ("heads", "size", "rest", "one"))
    count, axes, split, batch, terms, products = (
        f"{OUTER}_{name}" for name in ("count", "axes", "split", "batch", "terms", "products")
    )
    return [
        _node("Shape", ["row_tap"], count, start=1, end=2),
        _node("Concat", [heads, size, count, rest], axes, axis=0),
        _node("Reshape", [keys, axes], split),
        _node("Transpose", [split], batch, perm=[0, 2, 1, 3]),
        _node("Concat", [heads, count, rest, size], f"{axes}_of_values", axis=0),
        _node("Reshape", [values, f"{axes}_of_values"], terms),
        _node("MatMul", [batch, terms], products, name=node.name or OUTER),
        _node("ReduceSum", [products, one], OUTER, keepdims=0),
    ]


def _is_product(node: NodeProto) -> bool:
    return node.op_type in ("MatMul", "Gemm")


def _halves(model: onnx.ModelProto) -> set[str]:
    """Names of the fp16 tensors that nodes make."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = [*graph.value_info, *graph.output]
    return {info.name for info in known if info.type.tensor_type.elem_type == TensorProto.FLOAT16}


def _as_it_is(node: NodeProto) -> Nodes:
    return [node]


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)
