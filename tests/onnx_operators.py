"""Which operators an ONNX model consists of."""

from __future__ import annotations

import onnx


def operators(model: onnx.ModelProto) -> set[str]:
    """Return the operator types of a model, functions and sub-graphs included."""
    found: set[str] = set()
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        node = nodes.pop()
        found.add(node.op_type)
        for attribute in node.attribute:
            nodes.extend(attribute.g.node)
    return found - {function.name for function in model.functions}
