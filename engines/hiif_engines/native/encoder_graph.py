"""Reads encoders of convolutions, such as EDSR, RDN and SPAN, from their graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hiif_engines.native.target import Target
from hiif_engines.native.winograd import OUT, PLACES, Activation, Convolution
from hiif_engines.onnx_graph import parse_graph

USUAL = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
"""Attributes of every convolution that is read."""
HALF = 0.5
"""Constant of the gate (c + x) · (σ(c) − ½)."""


@dataclass(frozen=True)
class Part:
    """A convolution of one plane."""

    source: str
    weights: NDArray[Any]
    """[O, I, 3, 3] or [O, I, 1, 1], of type float32, or float64 where two convolutions were merged."""


@dataclass(frozen=True)
class PlaneLayer:
    """A sum of convolutions with what follows it; names of planes are those of the graph's tensors."""

    parts: tuple[Part, ...]
    """1×1 convolutions, then 3×3 convolutions."""
    target: str
    bias: NDArray[Any]
    """[O]."""
    activation: Activation = "none"
    added: str = ""
    """Plane that is added to the outputs, or in the gate; empty for none."""

    def kind(self, target: Target) -> Convolution:
        """Return its kernel's kind; inputs and outputs are padded to whole vectors."""
        planes = tuple(target.padded(part.weights.shape[1]) for part in self.parts)
        points = sum(part.weights.shape[2:] == (1, 1) for part in self.parts)
        return Convolution(planes, points, target.padded(len(self.bias)), self.activation, bool(self.added))

    @property
    def is_linear(self) -> bool:
        """Whether it is a convolution of one plane and nothing else."""
        return len(self.parts) == 1 and self.activation == "none" and not self.added


def read_encoder(model: bytes) -> list[PlaneLayer] | None:
    """Read an encoder's graph [1, C, h, w] → [1, O, h, w]; None where it has other operations."""
    graph = parse_graph("encoder", model)
    reader = _Reader(graph)
    result = graph.output[0].name
    is_read = all(reader.read(node) for node in graph.node) and reader.has_plane(result)
    return reader.layers if is_read and reader.layers and reader.layers[-1].target == result else None


def read_convolution(
    node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]], *, is_padded: bool = True
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return weights and bias, or zeros, of a 1×1 or 3×3 convolution with stride 1; None for another, or with other
    padding."""
    options = {"pads": [0] * 4} | {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if len(node.input) not in (2, 3) or not set(node.input[1:]) <= set(constants):
        return None
    weights, *biases = (constants[name] for name in node.input[1:])
    bias, size = biases[0] if biases else np.zeros(weights.shape[:1], np.float32), weights.shape[2:]
    if size not in ((1, 1), (3, 3)) or 0 in weights.shape or bias.shape != weights.shape[:1]:
        return None
    wanted = {"pads": [size[0] // 2 if is_padded else 0] * 4, "kernel_shape": list(size), **USUAL}
    is_known = all(wanted.get(name) == options[name] for name in options)
    return (weights, bias) if is_known and {weights.dtype, bias.dtype} == {np.dtype(np.float32)} else None


class _Reader:
    """Joins a convolution with what follows it. A layer is appended when its plane is read, so that a plane that only
    other operations replace is never computed."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.layers: list[PlaneLayer] = []
        source = graph.input[0]
        self._channels = {source.name: source.type.tensor_type.shape.dim[1].dim_value}
        """Of the planes that are computed."""
        self._constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._open: dict[str, PlaneLayer] = {}
        """Layers by the tensor that they would compute."""
        self._sigmoids: dict[str, str] = {}
        """σ(c), and σ(c) − ½, by the name of the convolution c."""
        self._gates: dict[str, str] = {}
        self._joined: dict[str, list[str]] = {}

    def read(self, node: onnx.NodeProto) -> bool:
        """Whether the operation is known, and reads what it can."""
        readers = {
            "Conv": self._convolution, "Relu": self._relu, "Add": self._sum, "Sigmoid": self._sigmoid,
            "Sub": self._less_half, "Mul": self._product, "Concat": self._concatenation,
        }  # fmt: skip
        return node.op_type in readers and not node.domain and readers[node.op_type](node)

    def has_plane(self, name: str) -> bool:
        """Whether the tensor is a plane, for which a layer is appended if necessary."""
        if name in self._channels:
            return True
        layer = self._open.get(name)
        if layer is None:
            return False
        self.layers.append(layer)
        self._channels[name] = len(layer.bias)
        return True

    def _convolution(self, node: onnx.NodeProto) -> bool:
        found = read_convolution(node, self._constants)
        layer = self._parts(node.input[0], *found) if found else None
        if layer is not None:
            self._open[node.output[0]] = replace(layer, target=node.output[0])
        return layer is not None

    def _parts(self, name: str, weights: NDArray[Any], bias: NDArray[Any]) -> PlaneLayer | None:
        """A convolution of a plane, or of joined planes: the sum of theirs."""
        parts, first, bias = list[Part](), 0, bias.astype(np.float64)
        for source in self._joined.get(name, [name]):
            count = self._count(source)
            some, first = weights[:, first : first + count], first + count
            found = self._part(source, some) if count and some.shape[1] == count else None
            if found is None:
                return None
            parts.append(found[0])
            bias = bias + found[1]
        parts.sort(key=lambda part: part.weights.shape[2])
        return PlaneLayer(tuple(parts), "", bias) if first == weights.shape[1] else None

    def _part(self, source: str, weights: NDArray[Any]) -> tuple[Part, NDArray[Any] | float] | None:
        """A convolution of one plane, and what it adds to the bias; a 1×1 convolution is merged with the linear layer
        that made the plane where that saves multiplications.

        Merged, conv_1 of SPAN reads the picture's plane, and the plane of conv_2 is not computed.
        """
        before = self._open.get(source)
        if weights.shape[2:] == (1, 1) and before is not None and before.is_linear:
            (part,) = before.parts
            if source not in self._channels or PLACES * part.weights.shape[1] < OUT * OUT * weights.shape[1]:
                matrix = weights[:, :, 0, 0].astype(np.float64)
                return Part(part.source, np.einsum("om,mihw->oihw", matrix, part.weights)), matrix @ before.bias
        return (Part(source, weights), 0.0) if self.has_plane(source) else None

    def _count(self, name: str) -> int:
        """Number of channels of a tensor that is a plane or would be one; 0 for another."""
        layer = self._open.get(name)
        return self._channels.get(name, 0) if layer is None else len(layer.bias)

    def _relu(self, node: onnx.NodeProto) -> bool:
        return self._activated(node.input[0], node.output[0], "relu")

    def _activated(self, name: str, target: str, activation: Activation) -> bool:
        layer = self._open.get(name)
        if layer is None or layer.activation != "none" or layer.added:
            return False
        self._open[target] = replace(layer, target=target, activation=activation)
        return True

    def _sum(self, node: onnx.NodeProto) -> bool:
        """Add a plane to the operand that was made last."""
        made = [name for name in self._open if name in node.input and not self._open[name].added]
        if not made or len(set(node.input)) != 2:
            return False
        (other,) = set(node.input) - {made[-1]}
        layer = self._open[made[-1]]
        if not self.has_plane(other) or self._channels[other] != len(layer.bias):
            return False
        self._open[node.output[0]] = replace(layer, target=node.output[0], added=other)
        return True

    def _sigmoid(self, node: onnx.NodeProto) -> bool:
        self._sigmoids[node.output[0]] = node.input[0]
        return True

    def _less_half(self, node: onnx.NodeProto) -> bool:
        constant = self._constants.get(node.input[1])
        if node.input[0] not in self._sigmoids or constant is None or constant.shape != () or constant != HALF:
            return False
        self._gates[node.output[0]] = self._sigmoids[node.input[0]]
        return True

    def _product(self, node: onnx.NodeProto) -> bool:
        """c · σ(c), or (c + x) · (σ(c) − ½)."""
        for value, weight in (node.input, reversed(node.input)):
            if self._sigmoids.get(weight) == value:
                return self._activated(value, node.output[0], "silu")
            layer, before = self._open.get(value), self._open.get(self._gates.get(weight, ""))
            if layer and before and _is_sum_of(layer, before):
                self._open[node.output[0]] = replace(layer, target=node.output[0], activation="gate")
                return True
        return False

    def _concatenation(self, node: onnx.NodeProto) -> bool:
        if [onnx.helper.get_attribute_value(entry) for entry in node.attribute] != [1]:
            return False
        self._joined[node.output[0]] = [name for part in node.input for name in self._joined.get(part, [part])]
        return True


def _is_sum_of(layer: PlaneLayer, convolution: PlaneLayer) -> bool:
    """Whether a layer is that convolution and an added plane. Its parts are then the same object."""
    are_plain = layer.activation == convolution.activation == "none" and not convolution.added
    return are_plain and layer.parts is convolution.parts and layer.added != ""
