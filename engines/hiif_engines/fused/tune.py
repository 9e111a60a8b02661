"""How the fused kernels are cut on this GPU: measured once when asked for, stored, used from then on.

Never measured by itself: a cut decides the order of sums, and equal calls are to give equal bits from one run to the
next. What is stored belongs to one GPU, one version of Triton, one kernel's widths and one type.
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
from hiif_engines.fused.decoder import Cut, FusedDecoder, FusedStatistics
from hiif_engines.torch_graph.device import describe
from hiif_engines.torch_graph.interpreter import TorchGraph

logger = logging.getLogger(__name__)
Kernel = FusedDecoder | FusedStatistics
FOLDER = "kernels"
"""Below the store's root."""
MEASURED: tuple[Size, Size] = (128, 128), (256, 256)
"""(height, width) from and to: as many queries as a block of a large picture has."""
SIZES = (
    (32, 32, 4), (32, 32, 8), (64, 16, 8), (64, 32, 4), (64, 32, 8), (64, 64, 8), (128, 16, 16), (128, 32, 8),
)  # fmt: skip
"""Queries, hidden channels at once, warps: what a compiler fits on a chip at some width or other (design/gpu.md)."""
WARM_UP, TURNS = 3, 10
"""Calls before and in one measurement."""


def default_cut(device: torch.device) -> Cut:
    """What is used where nothing was measured."""
    return Cut(programs=multiprocessors(device))


def candidates(device: torch.device) -> list[Cut]:
    """All that are measured. Where values or weights do not fit the chip, that is found out by trying."""
    processors = multiprocessors(device)
    return [Cut(block, part, n * processors, warps) for block, part, warps in SIZES for n in (1, 2)]


def multiprocessors(device: torch.device) -> int:
    """Of the GPU; an H100's on the processor."""
    if device.type != "cuda":
        return Cut().programs
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@dataclass(frozen=True)
class Measured:
    """What was found out about one kernel."""

    cut: Cut
    """The fastest."""
    seconds: dict[str, float]
    """Of every cut that runs, by its numbers."""
    failed: dict[str, str]
    """Why the others do not."""


def measure(
    kernel: Kernel, feeds: dict[str, Tensor], cuts: Iterable[Cut], seconds: Callable[[Callable[[], object]], float]
) -> Measured:
    """Time every cut by `seconds`. EngineError where none runs."""
    found: dict[Cut, float] = {}
    failed: dict[str, str] = {}
    for cut in cuts:
        try:
            found[cut] = seconds(lambda cut=cut: kernel(feeds, cut))  # type: ignore[misc]
        except Exception as error:  # Triton raises several, none of them public
            failed[_name(cut)] = (str(error).splitlines() or [type(error).__name__])[0]
    if not found:
        raise EngineError(f"no cut of the fused kernel runs: {failed}")
    return Measured(min(found, key=found.__getitem__), {_name(cut): value for cut, value in found.items()}, failed)


def seconds_on(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """A clock for `measure`: seconds of one call, the first ones, which compile, left out."""

    def clock(work: Callable[[], object]) -> float:
        for _ in range(WARM_UP):
            work()
        _wait(device)
        began = time.perf_counter()
        for _ in range(TURNS):
            work()
        _wait(device)
        return (time.perf_counter() - began) / TURNS

    return clock


def find(kernel: Kernel, device: torch.device) -> Cut:
    """The stored cut of this kernel on this device, or the default. A damaged file is reported and not used."""
    path = measured_path(FOLDER, _facts(kernel, device))
    if path is None or not path.is_file():
        return default_cut(device)
    try:
        return Cut(**json.loads(path.read_text(encoding="utf-8"))["cut"])
    except (OSError, ValueError, TypeError, KeyError, EngineError) as error:
        logger.warning("%s: not a cut (%s); it is not used: remove it, or run tune-kernels again", path, error)
        return default_cut(device)


def store(kernel: Kernel, device: torch.device, measured: Measured) -> Path:
    """Keep it for later runs; EngineError where there is no place for it."""
    facts = _facts(kernel, device)
    return keep_measured(measured_path(FOLDER, facts), {**facts, **asdict(measured)})


def random_feeds(
    contract: Contract, graph: TorchGraph, source: Size, target: Size, device: torch.device
) -> dict[str, Tensor]:
    """Inputs of a decoder or statistics graph: random maps and folded matrices, real geometry of a whole picture."""
    rows, columns = query_axes(contract, source, target, Window((0, target[0]), (0, target[1])))
    (tile,) = decoder_tiles(rows, columns, source, 1 << 62)
    host = dict(geometry_inputs(graph.contract.geometry, rows, columns, tile, relative_cell(source, target)))
    random = np.random.default_rng(5)
    for tensor in graph.contract.inputs:
        if tensor.name not in host:
            shape = [source[0] * source[1] if isinstance(size, str) else size for size in tensor.shape]
            values = random.normal(size=shape) / 8
            if tensor.name == "moments":
                # Σf and Σf²: the second is what makes the first possible.
                values = np.stack([values[:, 0], 20 + np.abs(values[:, 1])], axis=1)
            host[tensor.name] = values.astype(tensor.dtype)
    return {name: torch.tensor(value).to(device) for name, value in host.items()}


def _name(cut: Cut) -> str:
    return f"{cut.block} queries, slices of {cut.slice}, {cut.programs} programs, {cut.warps} warps"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _facts(kernel: Kernel, device: torch.device) -> dict[str, object]:
    versions = {"gpu": describe(device), "triton": version("triton")}
    return {**versions, "kernel": type(kernel).__name__, "type": str(kernel.dtype), **kernel.shapes}
