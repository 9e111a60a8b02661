"""Loads one graph on ONNX Runtime or OpenVINO."""

from collections.abc import Mapping, Sequence

from hiif_deploy.backends.engines import ENGINES
from hiif_deploy.backends.options import ON_HOST, EngineOptions
from hiif_deploy.bundle.contract import GraphContract, is_fold
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.session import ComputePrecision, Session
from hiif_deploy.decoding.shared_graphs import contracts, model
from hiif_deploy.errors import EngineError
from hiif_deploy.support.resolve import resolve


def open_session(
    graph: GraphContract, model: bytes, options: EngineOptions, *, threads: int, keep_memory: bool,
    precision: ComputePrecision = "fp32", following: Sequence[bytes] = (),
) -> Session:  # fmt: skip
    """Load one graph on the engine that `options` name, with `threads` inside one call.

    Models that `graph` joins behind the first one (`contract.joined`) are `following`, where the engine joins stages.

    `keep_memory` keeps the engine's buffers between calls: for many calls of one size. For few large ones they go back
    to the system when a call ends.
    """
    loader = ENGINES[options.engine].session
    if loader is None:
        raise EngineError(f"{ENGINES[options.engine].title} does not run single graphs")
    session: Session = resolve(loader)(
        graph, (model, *following), options, threads, keep_memory=keep_memory, precision=precision
    )
    return session


def open_folds(bundle: Bundle, chain: Mapping[str, GraphContract]) -> dict[str, Session]:
    """The `fold_n` graphs among those of a chain: tiny and float64, so they run on the processor with every engine."""
    folds = {name: graph for name, graph in chain.items() if is_fold(name)}
    return {name: open_on_host(graph, bundle.graphs[graph.key]) for name, graph in folds.items()}


def open_shared(name: str) -> Session:
    """A shared graph on the processor, where it rounds as the reference does."""
    return open_on_host(contracts()[name], model(name))


def open_on_host(graph: GraphContract, model: bytes) -> Session:
    """One graph on ONNX Runtime's processor, in the calling thread, its buffers kept between calls."""
    return open_session(graph, model, ON_HOST, threads=1, keep_memory=True)
