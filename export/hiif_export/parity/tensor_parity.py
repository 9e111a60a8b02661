"""Locates the error of half precision: runs every named part of the graphs in both precisions in PyTorch.

PyTorch rounds each tensor to half where the graphs do. ONNX Runtime need not on a CPU: it computes in float32 and may
leave out a rounding between two operations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import Precision, is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_export.graphs.exporter import make_exporter
from hiif_export.graphs.graph import Graph
from hiif_export.parity.graph_parity import Tensors, chain_values, typed_feeds
from hiif_training.models.implicit import ImplicitModel


@dataclass(frozen=True)
class TensorDeviation:
    """Deviation of one part of a graph from fp32."""

    graph: str
    """Name of the graph; every graph is fed with fp32's inputs."""
    tensor: str
    """Path of the module whose output it is."""
    rms: float
    """Root mean square of the fp32 values."""
    error: float
    """Root mean square of the difference."""
    largest: float
    """Largest absolute difference from fp32."""

    @property
    def ratio_db(self) -> float:
        """Return signal to error in dB, at most 200."""
        return 200.0 if self.error == 0 else min(200.0, 20 * float(np.log10(max(self.rms, 1e-30) / self.error)))


def compare_tensors(model: ImplicitModel, bundle: Bundle, precision: Precision = "fp16") -> list[TensorDeviation]:
    """Compare every part of every graph of `precision` with fp32, in the order of computation."""
    values = chain_values(model, bundle)
    exporter = make_exporter(model, bundle.contract.model)
    half = {graph.name: graph for graph in exporter.graphs(precision)}
    found = []
    for graph in exporter.graphs():
        if is_fold(graph.name):
            continue
        expected = _run(graph, values)
        outputs = _run(half[graph.name], values)
        found += [_measure(graph.name, name, outputs[name], value) for name, value in expected.items()]
    return found


def _run(graph: Graph, values: Tensors) -> dict[str, Tensor]:
    feeds = typed_feeds(values, graph)
    with torch.no_grad(), _recorded(graph.module) as found:
        output = graph.module(*(torch.from_numpy(value) for value in feeds.values()))
    outputs = output if isinstance(output, tuple) else (output,)
    return {**found, **dict(zip(graph.outputs, outputs, strict=True))}


@contextmanager
def _recorded(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of modules up to two levels below the graph's module, by path."""
    found: dict[str, Tensor] = {}

    def hook(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            found[name] = output.detach().clone()

    handles = [
        part.register_forward_hook(lambda _module, _inputs, output, name=name: hook(name, output))
        for name, part in module.named_modules()
        # Keys and values are scaled by a power of two before a LayerNorm, which cancels it: they differ on purpose.
        if name and name.count(".") <= 2 and not name.startswith("key_value")
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _measure(graph: str, tensor: str, output: Tensor, expected: Tensor) -> TensorDeviation:
    error, rms = output.double() - expected.double(), float(expected.double().square().mean().sqrt())
    return TensorDeviation(graph, tensor, rms, float(error.square().mean().sqrt()), float(error.abs().max()))
