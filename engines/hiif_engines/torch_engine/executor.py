"""Runs a bundle's graphs on a PyTorch device: tensors stay there, finished values and sums come to the host."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import finish_feeds, finish_name
from hiif_deploy.decoding.executor import BlockSums, DecodedBlock, T, run_fold
from hiif_deploy.decoding.job import Job, Sums, TileQueries, Window
from hiif_deploy.decoding.output_check import ColourRange
from hiif_deploy.decoding.queries import geometry_inputs
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.geometry.tiling import query_blocks, steps
from hiif_engines.torch_engine.cuda_graphs import CudaGraphCache
from hiif_engines.torch_engine.download import Download
from hiif_engines.torch_engine.features import as_device_type
from hiif_engines.torch_engine.map_cache import MapStore
from hiif_engines.torch_engine.sampled import query_list, sampled_queries
from hiif_engines.torch_graph.device import exact_products
from hiif_engines.torch_graph.interpreter import TorchGraph

Compute = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""A graph, or a fused kernel that stands for it."""
AHEAD = 2
"""Blocks in flight: one computes while the other is copied to the host and read there."""


class TorchExecutor:
    """`Executor` on one device. Thread-safe: work is queued under a lock."""

    def __init__(
        self, contract: Contract, graphs: Mapping[str, TorchGraph], kernels: Mapping[str, Compute],
        folds: Mapping[str, Session], shared: Callable[[str], TorchGraph], device: torch.device,
        cache: CudaGraphCache | None,
    ) -> None:  # fmt: skip
        """`kernels` replace the graphs of their names; `shared` loads a shared graph; `cache` records blocks."""
        self._contract, self._graphs, self._kernels, self._folds = contract, graphs, kernels, folds
        self._shared, self._device, self._cache = shared, device, cache
        self.lock = threading.Lock()
        """Held while work is queued."""
        self.maps = MapStore(graphs["maps"], contract.decoder.halo, device, self.lock)

    def each(self, work: Callable[[TileQueries], Iterable[T]], tiles: Iterable[TileQueries]) -> Iterator[Iterable[T]]:
        """See `Executor`; in turn, because the device is shared."""
        return map(work, tiles)

    def place(self, folded: Tensors, graph: str) -> Tensors:
        """See `Executor`; on the device, in the graph's types. To the graphs a tensor is as good as an array."""
        types = {tensor.name: np.dtype(tensor.dtype) for tensor in self._graphs[graph].contract.inputs}
        host = {name: value.astype(types[name]) for name, value in folded.items() if name in types}
        with self.lock:
            return cast(Tensors, self._upload(host))

    def fold(self, n: int, sums: Sums, count: int) -> dict[str, NDArray[Any]]:
        """See `Executor`; tiny and float64, on the processor."""
        return run_fold(self._folds[f"fold_{n}"], sums, count)

    def sums(self, job: Job, queries: TileQueries, folded: Tensors, n: int) -> Iterable[BlockSums]:
        """See `Executor`; one download for all blocks of the tile."""
        if job.sampling is not None:
            yield self._sampled_sums(job, queries, folded, n)
            return
        windows, found = [], []
        for row, column, outputs in self._calls(f"statistics_{n}", job, queries, folded):
            windows.append(queries.part(row, column))
            found.append(outputs)
        every = {name: torch.stack([outputs[name] for outputs in found]).cpu().numpy() for name in found[0]}
        for index, window in enumerate(windows):
            yield BlockSums(window, {name: values[index] for name, values in every.items()})

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterable[DecodedBlock]:
        """See `Executor`; finished on the device, one block late."""
        feeds = finish_feeds(self._contract, job.frame, queries.rows, queries.columns)
        with self.lock:
            # Once per tile: an upload waits for the blocks that are queued.
            tables = self._upload({**feeds, "frame": as_device_type(feeds["frame"])})
        queued: deque[Callable[[], DecodedBlock]] = deque()
        for row, column, outputs in self._calls("decoder", job, queries, folded):
            given = {name: value[_entries(name, row, column)] for name, value in tables.items()}
            queued.append(self._finish(job, queries.part(row, column), {**given, "colour": outputs["colour"]}))
            if len(queued) == AHEAD:
                yield queued.popleft()()
        for wait in queued:
            yield wait()

    def _finish(self, job: Job, window: Window, feeds: Mapping[str, Tensor]) -> Callable[[], DecodedBlock]:
        """Queue a block's values; what is returned waits for them."""
        graph = self._shared(finish_name(job).replace("uint16", "int32"))
        with self.lock, torch.inference_mode():
            found = graph(feeds)
            scalars = torch.stack([found[name] for name in ("low", "high", "total")])
            download = Download(found["values"], scalars)
        return partial(_finished, download, window, job.frame.dtype)

    def _sampled_sums(self, job: Job, queries: TileQueries, folded: Tensors, n: int) -> BlockSums:
        """Sampled queries are few, so they run operation by operation, fused or not."""
        (rows, columns), graph = sampled_queries(job, queries), self._graphs[f"statistics_{n}"]
        total: dict[str, NDArray[Any]] = {}
        for block in steps(len(rows), job.plan.query_block):
            taps = queries.rows[rows[block]], queries.columns[columns[block]]
            feeds = query_list(graph.contract.geometry, *taps, queries.tile, job.cell)
            with self.maps.lease(job, queries.tile) as maps, self.lock, exact_products():
                found = graph({**self._upload(feeds), **cast(Mapping[str, Tensor], folded), **maps})
            for name, value in found.items():
                total[name] = total.get(name, 0) + value.cpu().numpy().astype(np.float64)
        return BlockSums(queries.whole, total)

    def _calls(
        self, name: str, job: Job, queries: TileQueries, folded: Tensors
    ) -> Iterator[tuple[slice, slice, dict[str, Tensor]]]:
        """Yields (rows, columns) within the tile and the outputs of the named graph for each block of its queries."""
        graph = self._graphs[name]
        compute = self._kernels.get(name, graph)
        geometry = geometry_inputs(graph.contract.geometry, queries.rows, queries.columns, queries.tile, job.cell)
        with self.maps.lease(job, queries.tile) as maps:
            with self.lock:
                feeds = {**self._upload(geometry), **cast(Mapping[str, Tensor], folded)}
            for row, column in query_blocks(queries.rows.count, queries.columns.count, job.plan.query_block):
                given = {key: _part(key, value, row, column) for key, value in feeds.items()}
                with self.lock, exact_products():
                    if self._cache is None:
                        outputs = compute({**maps, **given})
                    else:
                        outputs = self._cache.run(name, compute, maps, given)
                yield row, column, outputs

    def _upload(self, host: Tensors) -> dict[str, Tensor]:
        return {name: torch.tensor(value).to(self._device) for name, value in host.items()}


def _finished(download: Download, window: Window, dtype: np.dtype[Any]) -> DecodedBlock:
    values, (low, high, total) = download.wait()
    return DecodedBlock(window, values.astype(dtype, copy=False), ColourRange(float(low), float(high), float(total)))


def _entries(name: str, rows: slice, columns: slice) -> slice:
    """A block's entries of a tile's input of a `finish` graph; all of them where it has none for rows or columns."""
    return {"row": rows, "column": columns}.get(name.partition("_")[0], slice(None))


def _part(name: str, value: Tensor, rows: slice, columns: slice) -> Tensor:
    """A block's part of a tile's input, by what its name says of its axes."""
    if name.startswith("row_"):
        return value[:, rows]
    return value[:, :, columns] if name.startswith("column_") else value
