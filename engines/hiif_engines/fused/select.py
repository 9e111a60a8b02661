"""Selects the graphs of a bundle that have a fused kernel, and their configurations on this device."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hiif_deploy.bundle.contract import Contract, Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.queries import geometry_inputs, query_axes
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.grid import relative_cell
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import decoder_tiles
from hiif_deploy.support.extras import missing_extra
from hiif_engines.fused.configs import KernelConfig, configs
from hiif_engines.torch_graph.device import computing_on, describe, wait_for
from hiif_engines.torch_graph.interpreter import Compute, TorchGraph

if TYPE_CHECKING:
    from hiif_engines.fused.decoder import FusedDecoder, FusedStatistics

    Kernel = FusedDecoder | FusedStatistics

logger = logging.getLogger(__name__)
TRIED: tuple[Size, Size] = (4, 4), (9, 7)
"""(height, width) of source and output in a kernel's first run."""


def fused_kernels(bundle: Bundle, precision: Precision, device: torch.device) -> dict[str, Compute]:
    """Return graph name → kernel from input tensors [...] to output tensors [...], each run once on this device.

    EngineError where the decoder has another architecture, the precision is not fp16, or the GPU runs no configuration.
    """
    if device.type == "cuda" and precision != "fp16":
        raise EngineError(f"the fused kernels compute in fp16, not in {precision}")
    graphs = decoder_graphs(bundle, device)
    kernels = open_kernels(graphs, precision)
    if device.type == "cuda":
        logger.info("compiling fused kernels: seconds on the first run on a GPU, stored by Triton for the next")
    found: dict[str, Compute] = {}
    for name, kernel in kernels.items():
        feeds = random_feeds(bundle.contract, graphs[name], kernel.dtype, *TRIED)
        found[name] = partial(kernel, config=_first_that_runs(name, kernel, feeds, device))
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


def random_feeds(
    contract: Contract, graph: TorchGraph, dtype: torch.dtype, source: Size, target: Size
) -> dict[str, Tensor]:
    """Return inputs of a decoder or statistics graph: random maps [P, M] of `dtype` and matrices, real geometry of a
    whole picture."""
    rows, columns = query_axes(contract, source, target, Window((0, target[0]), (0, target[1])))
    (tile,) = decoder_tiles(rows, columns, source, 1 << 62)
    host = dict(geometry_inputs(graph.contract.geometry, rows, columns, tile, relative_cell(source, target)))
    random = np.random.default_rng(5)
    for tensor in graph.contract.inputs:
        if tensor.name not in host:
            shape = [source[0] * source[1] if isinstance(size, str) else size for size in tensor.shape]
            values = random.normal(size=shape) / 8
            if tensor.name == "moments":
                # Σf and Σf²: the variance must be positive.
                values = np.stack([values[:, 0], 20 + np.abs(values[:, 1])], axis=1)
            host[tensor.name] = values.astype(tensor.dtype)
    feeds = {name: torch.tensor(value).to(graph.device) for name, value in host.items()}
    return {name: value.to(dtype) if name.startswith("map_") else value for name, value in feeds.items()}


def _first_that_runs(name: str, kernel: Kernel, feeds: Mapping[str, Tensor], device: torch.device) -> KernelConfig:
    """Return the first configuration of the table that this GPU compiles and launches; EngineError without any."""
    reasons = []
    for config in configs(name, kernel.width, device):
        try:
            with computing_on(device):
                kernel(feeds, config)
                wait_for(device)
        except Exception as error:  # Triton raises several exceptions, none of them public
            reasons.append(f"{config}: {(str(error).splitlines() or [type(error).__name__])[0]}")
        else:
            return config
    raise EngineError(f"kernel {name} does not run on {describe(device)}: {'; '.join(reasons)}")
