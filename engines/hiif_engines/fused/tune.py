"""Which configuration of a fused kernel is fastest on this GPU: measured by a command, stored, used from then on.

They are never measured automatically: a configuration determines the order of sums, and equal calls must give equal
bits from run to run. A stored result is valid for one GPU, one version of Triton, one kernel's sizes and one dtype.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.queries import geometry_inputs, query_axes
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.grid import relative_cell
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import decoder_tiles
from hiif_deploy.support.cache_dir import keep_measured, measured_path
from hiif_engines.fused.configs import KernelConfig
from hiif_engines.fused.decoder import FusedDecoder, FusedStatistics
from hiif_engines.torch_graph.device import describe, wait_for
from hiif_engines.torch_graph.interpreter import TorchGraph

logger = logging.getLogger(__name__)
Kernel = FusedDecoder | FusedStatistics
FOLDER = "kernels"
"""Folder of the results below the store's root."""
MEASURED: tuple[Size, Size] = (128, 128), (256, 256)
"""(height, width) of source and output: as many queries as a block of a large picture has."""
WARM_UP, TURNS = 3, 10
"""Calls before a measurement, and calls per measurement."""


@dataclass(frozen=True)
class Measured:
    """Results of one kernel's measurement."""

    config: KernelConfig
    """The fastest configuration that was measured."""
    seconds: dict[str, float]
    """Configuration as text → seconds per call, of those that run."""
    failed: dict[str, str]
    """Configuration as text → reason why it does not run."""


def measure(
    kernel: Kernel,
    feeds: dict[str, Tensor],
    configs: Iterable[KernelConfig],
    seconds: Callable[[Callable[[], object]], float],
) -> Measured:
    """Time every configuration with `seconds` on inputs [...]. EngineError where none runs."""
    found: dict[KernelConfig, float] = {}
    failed: dict[str, str] = {}
    for config in configs:
        try:
            found[config] = seconds(lambda config=config: kernel(feeds, config))  # type: ignore[misc]
        except Exception as error:  # Triton raises several exceptions, none of them public
            failed[_name(config)] = (str(error).splitlines() or [type(error).__name__])[0]
    if not found:
        raise EngineError(f"no configuration of the fused kernel runs: {failed}")
    return Measured(
        min(found, key=found.__getitem__), {_name(config): value for config, value in found.items()}, failed
    )


def seconds_on(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """Return a timer for `measure`: seconds per call, without the first calls, which compile."""

    def clock(work: Callable[[], object]) -> float:
        for _ in range(WARM_UP):
            work()
        wait_for(device)
        began = time.perf_counter()
        for _ in range(TURNS):
            work()
        wait_for(device)
        return (time.perf_counter() - began) / TURNS

    return clock


def find(kernel: Kernel, device: torch.device) -> KernelConfig | None:
    """Return the stored configuration of this kernel on this device, or None. A damaged file is reported."""
    path = measured_path(FOLDER, _metadata(kernel, device))
    if path is None or not path.is_file():
        return None
    try:
        return KernelConfig(**json.loads(path.read_text(encoding="utf-8"))["cut"])
    except (OSError, ValueError, TypeError, KeyError, EngineError) as error:
        logger.warning(
            "%s: not a kernel configuration (%s); it is not used: remove it, or run tune-kernels again", path, error
        )
        return None


def store(kernel: Kernel, device: torch.device, measured: Measured) -> Path:
    """Store a result for later runs and return its path; EngineError where it cannot be written."""
    metadata = _metadata(kernel, device)
    # `cut` is the configuration's name in stored files, those of earlier versions included.
    content = {"cut": asdict(measured.config), "seconds": measured.seconds, "failed": measured.failed}
    return keep_measured(measured_path(FOLDER, metadata), {**metadata, **content})


def random_feeds(
    contract: Contract, graph: TorchGraph, source: Size, target: Size, device: torch.device
) -> dict[str, Tensor]:
    """Return inputs of a decoder or statistics graph: random maps [P, M] and matrices, real geometry of a whole
    picture."""
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
    return {name: torch.tensor(value).to(device) for name, value in host.items()}


def _name(config: KernelConfig) -> str:
    return (
        f"{config.block} queries, slices of {config.slice}, {config.programs} programs, {config.warps} warps, "
        f"{config.stages} stages"
    )


def _metadata(kernel: Kernel, device: torch.device) -> dict[str, object]:
    versions = {"gpu": describe(device), "triton": version("triton")}
    return {**versions, "kernel": type(kernel).__name__, "type": str(kernel.dtype), **kernel.shapes}
