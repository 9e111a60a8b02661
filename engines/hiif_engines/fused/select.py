"""Selects the graphs of a bundle that have a fused kernel, and their configurations on this device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.support.extras import missing_extra
from hiif_engines.fused.configs import KernelConfig, configs
from hiif_engines.torch_graph.device import computing_on, describe, wait_for
from hiif_engines.torch_graph.interpreter import TorchGraph

if TYPE_CHECKING:
    from hiif_engines.fused.tune import Kernel, Measured

logger = logging.getLogger(__name__)
TRIED: tuple[Size, Size] = (4, 4), (9, 7)
"""(height, width) of source and output in a kernel's first run."""


def fused_kernels(
    bundle: Bundle, precision: Precision, device: torch.device
) -> dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
    """Return graph name → kernel from input tensors [...] to output tensors [...], each run once on this device.

    EngineError where the decoder has another architecture, the precision is not fp16, or the GPU runs no configuration.
    """
    if device.type == "cuda" and precision != "fp16":
        raise EngineError(f"the fused kernels compute in fp16, not in {precision}")
    graphs = decoder_graphs(bundle, device)
    kernels = open_kernels(graphs, precision)
    if device.type == "cuda":
        logger.info("compiling fused kernels: seconds on the first run on a GPU, stored by Triton for the next")
    return {
        name: partial(
            kernel, config=_first_that_runs(name, kernel, kernel_feeds(bundle, graphs[name], kernel, TRIED), device)
        )
        for name, kernel in kernels.items()
    }


def tune_kernels(bundle: Bundle, device: torch.device) -> dict[str, Measured]:
    """Measure every configuration of every kernel and store the fastest; return the results by graph name."""
    graphs = decoder_graphs(bundle, device)
    kernels = open_kernels(graphs, "fp16")
    from hiif_engines.fused.tune import MEASURED, measure, seconds_on, store

    found = {}
    for name, kernel in kernels.items():
        feeds = kernel_feeds(bundle, graphs[name], kernel, MEASURED)
        with computing_on(device):
            found[name] = measure(kernel, feeds, configs(name, kernel.width, device), seconds_on(device))
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


def _first_that_runs(name: str, kernel: Kernel, feeds: Mapping[str, Tensor], device: torch.device) -> KernelConfig:
    """Return the stored configuration, or the first of the table, that this GPU compiles and launches."""
    from hiif_engines.fused.tune import find

    stored, reasons = find(kernel, device), []
    for config in [*filter(None, [stored]), *configs(name, kernel.width, device)]:
        try:
            with computing_on(device):
                kernel(feeds, config)
                wait_for(device)
        except Exception as error:  # Triton raises several exceptions, none of them public
            reasons.append(f"{config}: {(str(error).splitlines() or [type(error).__name__])[0]}")
        else:
            return config
    raise EngineError(f"kernel {name} does not run on {describe(device)}: {'; '.join(reasons)}")


def kernel_feeds(bundle: Bundle, graph: TorchGraph, kernel: Kernel, sizes: tuple[Size, Size]) -> dict[str, Tensor]:
    """Return random inputs [...] of a kernel, with the geometry of a picture of `sizes` and maps of its dtype."""
    from hiif_engines.fused.tune import random_feeds

    feeds = random_feeds(bundle.contract, graph, *sizes, graph.device)
    return {key: value.to(kernel.dtype) if key.startswith("map_") else value for key, value in feeds.items()}
