"""Runs an ONNX graph operation by operation in PyTorch: the readable reference of the fused kernels (design/gpu.md).

Tensors stay on their device between graphs. Weights are read from the graph's initialisers as data, never as code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.errors import EngineError
from hiif_engines.onnx_graph import parse_graph
from hiif_engines.torch_graph.operations import OPERATIONS

Feeds = Mapping[str, Tensor]
Compute = Callable[[Feeds], dict[str, Tensor]]
"""A graph, or what stands for one: input tensors by name [...] → output tensors [...]."""


@dataclass(frozen=True)
class GraphStep:
    """One operation of a graph."""

    kind: str
    """ONNX's name of the operation."""
    inputs: tuple[str, ...]
    """Names of the input tensors."""
    outputs: tuple[str, ...]
    """Names of the output tensors."""
    attributes: Mapping[str, Any]
    """Name of an attribute → its value."""
    forget: tuple[str, ...]
    """Tensors that no later operation reads."""


class TorchGraph:
    """One graph of a bundle on one device."""

    def __init__(self, graph: GraphContract, model: bytes, device: torch.device) -> None:
        """EngineError for an operation that is not in the table, BundleError for a damaged file."""
        self.contract, self.device = graph, device
        parsed = parse_graph(graph.key, model)
        self.weights = {tensor.name: _weight(tensor, device) for tensor in parsed.initializer}
        """Initialisers by name; int64 ones, sizes and axes, on the host."""
        self._steps = _steps(graph.key, parsed)
        self._outputs = [tensor.name for tensor in graph.outputs]

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return outputs by name for inputs of the contract's types [...]; other feeds are ignored.

        EngineError names the failed operation.
        """
        values = {tensor.name: feeds[tensor.name] for tensor in self.contract.inputs} | self.weights
        with torch.inference_mode():
            for step in self._steps:
                values.update(zip(step.outputs, self._run(step, values), strict=True))
                for name in step.forget:
                    values.pop(name, None)
        return {name: values[name] for name in self._outputs}

    def constants(self, kind: str, before: str) -> tuple[float, ...]:
        """Return the constants of operations `kind` whose results feed an operation `before`, in the order of the
        graph."""
        read = {name for step in self._steps if step.kind == before for name in step.inputs}
        found = [step for step in self._steps if step.kind == kind and step.outputs[0] in read]
        names = [[name for name in step.inputs if name in self.weights] for step in found]
        return tuple(float(self.weights[constant[0]]) for constant in names if constant)

    def _run(self, step: GraphStep, values: Mapping[str, Tensor]) -> Sequence[Tensor]:
        inputs = [values[name] for name in step.inputs]
        try:
            found = OPERATIONS[step.kind](inputs, step.attributes)
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zip(step.inputs, inputs, strict=True))
            reason = str(error).splitlines()[0]
            raise EngineError(f"graph {self.contract.key}: {step.kind} failed on {shapes}: {reason}") from error
        return [found] if isinstance(found, Tensor) else found


def _weight(tensor: onnx.TensorProto, device: torch.device) -> Tensor:
    # A copy, because what onnx gives may be read only, and torch warns of that.
    value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    if value.dtype == torch.int64:
        return value
    # Convolutions follow the layout of their weights: channels last is what matrix units read fastest.
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    return value.to(device, memory_format=layout)


def _steps(key: str, graph: onnx.GraphProto) -> list[GraphStep]:
    unknown = sorted({node.op_type for node in graph.node} - OPERATIONS.keys())
    if unknown:
        raise EngineError(
            f"graph {key} holds {', '.join(unknown)}, which the torch engine does not know: use --engine onnxruntime"
        )
    kept = {tensor.name for tensor in graph.output} | {tensor.name for tensor in graph.initializer}
    last = {name: n for n, node in enumerate(graph.node) for name in node.input if name not in kept}
    return [
        GraphStep(
            node.op_type, tuple(node.input), tuple(node.output),
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
            tuple({name for name in node.input if last.get(name) == n}),
        )
        for n, node in enumerate(graph.node)
    ]  # fmt: skip
