"""Compares each exported graph with its PyTorch module, so that a deviation is found in the graph where it arises.

Polygraphy runs and compares the ONNX models; PyTorch computes the inputs from a real picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import IterationResult, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.compose import normalise
from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.queries import geometry_inputs, query_axes
from hiif_deploy.errors import ParityError
from hiif_deploy.geometry.grid import relative_cell
from hiif_deploy.geometry.tiling import Tile
from hiif_deploy.pixels import to_unit
from hiif_export.graphs.exporter import make_exporter
from hiif_export.graphs.graph import Graph
from hiif_export.parity.parity import cases
from hiif_training.models.implicit import ImplicitModel

Tensors = dict[str, NDArray[Any]]

GRAPH_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest deviation of a graph's output, relative to the largest value in it."""


@dataclass(frozen=True)
class GraphDeviation:
    """Deviation of one output of one graph from PyTorch."""

    graph: str
    """Name of the graph in the contract."""
    output: str
    """Name of the graph's output."""
    largest: float
    """Largest absolute value that PyTorch computes."""
    error: float
    """Largest absolute difference from PyTorch."""

    @property
    def relative(self) -> float:
        """Return `error` relative to `largest`."""
        return self.error / self.largest if self.largest else self.error


def compare_graphs(model: ImplicitModel, bundle: Bundle, precision: Precision = "fp32") -> list[GraphDeviation]:
    """Run every graph of the bundle on one picture; each is fed with PyTorch's fp32 values, not its predecessors'."""
    found: list[GraphDeviation] = []
    chain = {**bundle.contract.chain(precision), **bundle.contract.stages}

    def visit(graph: Graph, feeds: Tensors, expected: Tensors) -> None:
        contract = chain[graph.name]
        typed = {tensor.name: feeds[tensor.name].astype(tensor.dtype) for tensor in contract.inputs}
        outputs = _run_onnx(bundle.graphs[contract.key], typed)
        found.extend(_compare(graph.name, outputs, expected))

    chain_values(model, bundle, visit)
    return found


def chain_values(
    model: ImplicitModel, bundle: Bundle, visit: Callable[[Graph, Tensors, Tensors], None] = lambda *_: None
) -> Tensors:
    """Return all tensors that PyTorch computes between the fp32 graphs for a real picture; `visit` sees each graph's
    own."""
    # 16x24 at 3.3: a multiple of every encoder's window, and no dyadic phase.
    (case,) = cases(sizes=((16, 24),), scales=(3.3,))
    known = _geometry(bundle, (16, 24), case.target)
    known["image"] = normalise(bundle.contract, to_unit(case.image))
    exporter = make_exporter(model, bundle.contract.model)
    for graph in [*exporter.graphs(), *exporter.stage_graphs()]:
        feeds = typed_feeds(known, graph)
        expected = _run_torch(graph, feeds)
        visit(graph, feeds, expected)
        known.update(expected)
        # A later decoder of a cascade reads the output of the one before it.
        known["before"] = known.get("colour", known["image"])
        if graph.name == "encoder":
            halo = bundle.contract.decoder.halo
            known["features"] = np.pad(expected["features"], ((0, 0), (0, 0), (halo, halo), (halo, halo)))
    return known


def typed_feeds(values: Tensors, graph: Graph) -> Tensors:
    """Return the graph's inputs from `values`, in its dtypes and order."""
    types = {name: torch.empty(0, dtype=tensor.dtype).numpy().dtype for name, (tensor, _) in graph.inputs.items()}
    return {name: np.ascontiguousarray(values[name], dtype=dtype) for name, dtype in types.items()}


def check_graphs(found: Sequence[GraphDeviation], precision: Precision = "fp32") -> None:
    """Raise ParityError naming the first graph and output beyond tolerance."""
    tolerance = GRAPH_TOLERANCE[precision]
    for deviation in found:
        if not deviation.relative <= tolerance:
            raise ParityError(
                f"graph {deviation.graph}: output {deviation.output} differs from PyTorch by {deviation.error:.2e} "
                f"at values up to {deviation.largest:.2e}, allowed {tolerance:.0e} of that"
            )


def _geometry(bundle: Bundle, source: tuple[int, int], size: tuple[int, int]) -> Tensors:
    window = Window((0, size[0]), (0, size[1]))
    rows, columns = query_axes(bundle.contract, source, size, window)
    whole = Tile(slice(0, size[0]), slice(0, size[1]), slice(0, source[0]), slice(0, source[1]))
    wanted = sorted({name for graph in bundle.contract.graphs for name in graph.geometry})
    count = np.array([size[0] * size[1]], dtype=np.float64)
    return {**geometry_inputs(wanted, rows, columns, whole, relative_cell(source, size)), "count": count}


def _run_torch(graph: Graph, feeds: Tensors) -> Tensors:
    with torch.no_grad():
        output = graph.module(*(torch.from_numpy(value) for value in feeds.values()))
    values = output if isinstance(output, tuple) else (output,)
    return {name: value.numpy() for name, value in zip(graph.outputs, values, strict=True)}


def _run_onnx(model: bytes, feeds: Tensors) -> Tensors:
    with G_LOGGER.verbosity(G_LOGGER.ERROR), OnnxrtRunner(SessionFromOnnx(model)) as runner:
        return {name: np.array(value) for name, value in runner.infer(feeds).items()}


def _compare(graph: str, outputs: Tensors, expected: Tensors) -> list[GraphDeviation]:
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = SimpleCompareFunc(check_error_stat="max")(
            IterationResult({n: v.astype(expected[n].dtype) for n, v in outputs.items()}, "onnxruntime"),
            IterationResult(dict(expected), "pytorch"),
        )
    return [
        GraphDeviation(graph, name, float(np.abs(expected[name]).max()), float(result.max_absdiff))
        for name, result in results.items()
    ]
