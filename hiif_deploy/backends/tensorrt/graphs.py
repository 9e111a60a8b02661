"""The graphs that TensorRT runs for a bundle: its own, and the shared ones that convert frames."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from hiif_deploy.bundle.contract import GraphContract, Precision, is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.shared_graphs import contracts, model

Graphs = dict[str, tuple[GraphContract, bytes]]
"""Graph name → its contract and its ONNX file."""


def trt_graphs(bundle: Bundle, precision: Precision) -> Graphs:
    """Every graph that TensorRT runs for a bundle; the folds run on the processor."""
    chain = bundle.contract.chain(precision).items()
    return {name: (graph, bundle.graphs[graph.key]) for name, graph in chain if not is_fold(name)} | shared_graphs()


def shared_graphs() -> Graphs:
    """The shared graphs `prepare-TYPE` and `finish-TYPE`, as small engines of their own.

    Merged into encoder and decoder they would save a launch per block, and need a decoder engine, minutes to build, for
    each of seven kinds of frames.
    """
    names = [name for name in contracts() if name.startswith(("prepare", "finish")) and "uint16" not in name]
    models = {name: model(name) for name in names}
    return {n: (replace(contracts()[n], sha256=sha256(data).hexdigest()), data) for n, data in models.items()}
