"""Encoders of 3×3 convolutions, ReLU and sums, such as EDSR, in native code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from llvmlite import ir
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.sizes import Size, padded_size
from hiif_engines.native.compile import Compiled
from hiif_engines.native.emit import LANES, WORD
from hiif_engines.native.winograd import OUT, PLACES, Convolution, emit_convolution, transformed
from hiif_engines.onnx_graph import parse_graph

Array = NDArray[np.float32]
PARTS = 4
"""Parts of a convolution per thread: threads that are interrupted are waited for less."""


@dataclass(frozen=True)
class PlaneLayer:
    """A convolution with what follows it; names of planes are those of the graph's tensors."""

    source: str
    target: str
    weights: Array
    """[O, I, 3, 3]."""
    bias: Array
    """[O]."""
    has_relu: bool = False
    added: str = ""
    """Plane that is added to the outputs; empty for none."""

    @property
    def kind(self) -> Convolution:
        """Its kernel's kind; inputs and outputs are padded to whole vectors."""
        outputs, inputs = (padded(size) for size in self.weights.shape[:2])
        return Convolution(inputs, outputs, self.has_relu, bool(self.added))


def padded(channels: int) -> int:
    """Return the number of channels that a plane has for that many."""
    return -(-channels // LANES) * LANES


def read_encoder(model: bytes) -> list[PlaneLayer] | None:
    """Read an encoder's graph [1, C, h, w] → [1, O, h, w]; None where it has other operations."""
    graph = parse_graph("encoder", model)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {"Conv": _convolution, "Relu": _relu, "Add": _sum}
    layers: list[PlaneLayer] = []
    for node in graph.node:
        read = readers.get(node.op_type)
        if read is None or not read(node, values, layers):
            return None
    source, result = graph.input[0], graph.output[0].name
    channels = {source.name: source.type.tensor_type.shape.dim[1].dim_value}
    is_read = layers and layers[-1].target == result and _have_their_channels(layers, channels)
    return layers if is_read else None


def _have_their_channels(layers: Sequence[PlaneLayer], known: Mapping[str, int]) -> bool:
    """Whether planes have the channels of the weights, as the kernel assumes; `known` are those of the input.

    A plane that is not known was joined with a ReLU or a sum, so it must not be read as it was before.
    """
    channels = dict(known)
    for layer in layers:
        outputs, inputs = layer.weights.shape[:2]
        has_added = not layer.added or channels.get(layer.added) == outputs
        if layer.bias.shape != (outputs,) or channels.get(layer.source) != inputs or not has_added:
            return False
        channels[layer.target] = outputs
    return True


def _convolution(node: onnx.NodeProto, values: Mapping[str, Any], layers: list[PlaneLayer]) -> bool:
    options = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    wanted = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1}
    is_known = len(node.input) == 3 and set(node.input[1:]) <= set(values) and "pads" in options
    if not is_known or any(wanted.get(name, options[name]) != options[name] for name in options):
        return False
    weights, bias = (values[name] for name in node.input[1:])
    if weights.shape[2:] != (3, 3) or weights.dtype != np.float32 or options.get("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    layers.append(PlaneLayer(node.input[0], node.output[0], weights, bias))
    return True


def _relu(node: onnx.NodeProto, values: Mapping[str, Any], layers: list[PlaneLayer]) -> bool:
    del values
    if not layers or layers[-1].target != node.input[0] or layers[-1].added:
        return False
    layers[-1] = replace(layers[-1], target=node.output[0], has_relu=True)
    return True


def _sum(node: onnx.NodeProto, values: Mapping[str, Any], layers: list[PlaneLayer]) -> bool:
    del values
    others = [name for name in node.input if not layers or name != layers[-1].target]
    # One other plane: neither two of them, nor the convolution's own twice.
    if len(others) != 1 or layers[-1].added:
        return False
    layers[-1] = replace(layers[-1], target=node.output[0], added=others[0])
    return True


class NativeEncoder:
    """An encoder as a session. `run` may be called from several threads, each call with its own planes."""

    def __init__(self, graph: GraphContract, layers: Sequence[PlaneLayer], threads: int) -> None:
        self.graph = graph
        self._layers, self._threads = list(layers), threads
        kinds = list(dict.fromkeys(layer.kind for layer in layers))
        module = ir.Module("encoder")
        for n, kind in enumerate(kinds):
            emit_convolution(module, f"convolution_{n}", kind)
        code = Compiled(module)
        functions = {kind: code.function(f"convolution_{n}") for n, kind in enumerate(kinds)}
        self._steps = [NativeStep(layer, functions[layer.kind]) for layer in layers]

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Picture `image` [1, C, h, w] → features [1, O, h, w] float32."""
        (source,), (result,) = self.graph.inputs, self.graph.outputs
        picture = np.asarray(feeds[source.name], np.float32)[0]
        size = (picture.shape[1], picture.shape[2])
        if len(picture) != self._layers[0].weights.shape[1]:
            raise EngineError(f"graph encoder: {source.name} has {len(picture)} channels, the weights want another")
        last_use = {name: n for n, layer in enumerate(self._layers) for name in (layer.source, layer.added)}
        planes = {source.name: plane_of(picture)}
        free: list[Array] = []
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._threads)) if self._threads > 1 else None
            for n, step in enumerate(self._steps):
                shape = (*_plane_size(size), step.layer.kind.outputs)
                # Whatever a plane held before, its border is 0: nothing writes there.
                fitting = [k for k, plane in enumerate(free) if plane.shape == shape]
                planes[step.layer.target] = free.pop(fitting[0]) if fitting else np.zeros(shape, np.float32)
                step.run(planes, size, self._threads, (pool.map if pool else map))
                free += [
                    planes.pop(name)
                    for name in list(planes)
                    if last_use.get(name, len(self._steps)) <= n < len(self._steps) - 1
                ]
        features = planes[self._layers[-1].target][1 : size[0] + 1, 1 : size[1] + 1, : self._outputs]
        return {result.name: np.ascontiguousarray(features.transpose(2, 0, 1))[None]}

    def work(self, feeds: Tensors) -> tuple[int, int]:
        """Return the multiplications of a call, and its bytes: planes read and written, transformed weights once."""
        height, width = _plane_size((feeds["image"].shape[2], feeds["image"].shape[3]))
        kinds = [layer.kind for layer in self._layers]
        values = sum(kind.inputs + kind.outputs * (1 + kind.is_added) for kind in kinds) * height * width
        weights = sum(PLACES * kind.inputs * kind.outputs for kind in kinds)
        return sum(kind.macs for kind in kinds) * height * width, WORD * (values + weights)

    @property
    def _outputs(self) -> int:
        return len(self._layers[-1].bias)


class NativeStep:
    """A layer with its weights transformed and its function."""

    def __init__(self, layer: PlaneLayer, call: Callable[[int], None]) -> None:
        self.layer, self._call, self._kind = layer, call, layer.kind
        outputs, inputs = layer.weights.shape[:2]
        free = (self._kind.outputs - outputs, self._kind.inputs - inputs)
        self._weights = transformed(np.pad(layer.weights, ((0, free[0]), (0, free[1]), (0, 0), (0, 0))))
        self._bias = np.pad(layer.bias.astype(np.float32), (0, free[0]))

    def run(self, planes: Mapping[str, Array], size: Size, threads: int, over: Callable[..., Any]) -> None:
        """Fill the target plane; values beyond the picture become 0 again, as the next layer's padding."""
        target, rows = planes[self.layer.target], -(-size[0] // OUT)
        step = max(1, -(-rows // (PARTS * threads)))
        list(over(partial(self._part, planes, step), range(0, rows, step)))
        target[size[0] + 1 :] = 0
        target[:, size[1] + 1 :] = 0

    def _part(self, planes: Mapping[str, Array], step: int, first: int) -> None:
        """Compute up to `step` rows of tiles."""
        source, target = planes[self.layer.source], planes[self.layer.target]
        added = planes.get(self.layer.added)
        scratch = np.empty(self._kind.scratch, np.uint8)
        rows, columns = (size // OUT for size in source.shape[:2])
        arrays = (source, target, added, self._weights, self._bias, scratch)
        addresses = [0 if array is None else array.ctypes.data for array in arrays]
        numbers = [source.shape[1], first, min(step, rows - first), columns]
        arguments = np.array([*addresses, *numbers], np.uint64)
        self._call(arguments.ctypes.data)


def _plane_size(size: Size) -> Size:
    """Return rows and columns of a plane: whole tiles, and a border of one pixel."""
    height, width = padded_size(size, OUT)
    return height + 2, width + 2


def plane_of(picture: Array) -> Array:
    """Return the plane of a picture [C, h, w]."""
    channels, height, width = picture.shape
    plane = np.zeros((*_plane_size((height, width)), padded(channels)), np.float32)
    plane[1 : height + 1, 1 : width + 1, :channels] = picture.transpose(1, 2, 0)
    return plane
