"""Selects the graphs of a bundle that have a fused kernel, and their configurations on this device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import EngineError
from hiif_deploy.support.extras import missing_extra
from hiif_engines.torch_graph.interpreter import TorchGraph

if TYPE_CHECKING:
    from hiif_engines.fused.tune import Kernel, Measured


def fused_kernels(
    bundle: Bundle, precision: Precision, device: torch.device
) -> dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
    """Return graph name → kernel from input tensors [...] to output tensors [...].

    EngineError where the decoder has another architecture.
    """
    kernels = open_kernels(decoder_graphs(bundle, device), precision)
    from hiif_engines.fused.tune import find

    return {name: partial(kernel, config=find(kernel, device)) for name, kernel in kernels.items()}


def tune_kernels(bundle: Bundle, precision: Precision, device: torch.device) -> dict[str, Measured]:
    """Measure every configuration of every kernel and store the fastest; return the results by graph name."""
    graphs = decoder_graphs(bundle, device)
    kernels = open_kernels(graphs, precision)
    from hiif_engines.fused.tune import MEASURED, candidates, measure, random_feeds, seconds_on, store

    found = {}
    for name, kernel in kernels.items():
        feeds = random_feeds(bundle.contract, graphs[name], *MEASURED, device)
        typed = {key: value.to(kernel.dtype) if key.startswith("map_") else value for key, value in feeds.items()}
        found[name] = measure(kernel, typed, candidates(device), seconds_on(device))
        store(kernel, device, found[name])
    return found


def decoder_graphs(bundle: Bundle, device: torch.device) -> dict[str, TorchGraph]:
    """Return the decoder and statistics graphs in fp32, from which the kernels read their weights."""
    return {
        name: TorchGraph(graph, bundle.graphs[graph.key], device)
        for name, graph in bundle.contract.chain("fp32").items()
        if name == "decoder" or name.startswith("statistics_")
    }


def open_kernels(graphs: Mapping[str, TorchGraph], precision: Precision) -> dict[str, Kernel]:
    """Return kernels by graph name; MissingExtraError without Triton, EngineError for another architecture."""
    if find_spec("triton") is None:
        raise missing_extra("triton", "cuda-torch")
    from hiif_engines.fused.decoder import FusedDecoder, FusedStatistics

    dtype = torch.float16 if precision == "fp16" else torch.float32
    kernels: dict[str, Kernel] = {"decoder": FusedDecoder(graphs["decoder"], dtype)}
    for name in graphs.keys() - {"decoder"}:
        if "key_value.projection.weight" not in graphs[name].weights:
            raise EngineError(f"graph {name} has no keys and values, as a HIIF's has: it is not fused")
        kernels[name] = FusedStatistics(graphs[name], dtype)
    return kernels
