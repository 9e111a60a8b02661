"""Runs a bundle's graphs on a PyTorch device: tensors stay there, finished values and sums come to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import RANGE, colour_range, finish_name, finish_tables, skip_part
from hiif_deploy.decoding.executor import BlockSums, DecodedBlock, DeviceExecutor, one_ahead
from hiif_deploy.decoding.job import Job, TileQueries, Window
from hiif_deploy.decoding.queries import geometry_inputs
from hiif_deploy.decoding.sampling import Index
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.shared_graphs import without_uint16
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.geometry.tiling import Tile, query_blocks, steps
from hiif_engines.torch_engine.features import features_of
from hiif_engines.torch_engine.launcher import Download, Launcher, upload
from hiif_engines.torch_engine.map_store import MapStore
from hiif_engines.torch_engine.plan import MAX_QUERIES
from hiif_engines.torch_graph.device import computing_on
from hiif_engines.torch_graph.interpreter import Compute, TorchGraph


class TorchExecutor(DeviceExecutor):
    """`Executor` on one device. Thread-safe: the launcher queues one call at a time."""

    def __init__(
        self, contract: Contract, graphs: Mapping[str, TorchGraph], kernels: Mapping[str, Compute],
        folds: Mapping[str, Session], shared: Callable[[str], TorchGraph], launcher: Launcher, maps: MapStore,
    ) -> None:  # fmt: skip
        """`kernels` replace the graphs of their names; `shared` loads a shared graph."""
        super().__init__(folds)
        self._contract, self._graphs, self._kernels = contract, graphs, kernels
        self._shared, self._launcher, self._maps = shared, launcher, maps

    def place(self, folded: Tensors, graph: str) -> Tensors:
        """See `Executor`; on the device, in the graph's types. To the graphs a tensor is as good as an array."""
        types = {tensor.name: np.dtype(tensor.dtype) for tensor in self._graphs[graph].contract.inputs}
        host = {name: value.astype(types[name]) for name, value in folded.items() if name in types}
        return cast(Tensors, self._launcher.upload(host))

    def sums(self, job: Job, queries: TileQueries, folded: Tensors, n: int) -> Iterable[BlockSums]:
        """See `Executor`; one download for all blocks of the tile."""
        name = f"statistics_{n}"
        compute = _packed(self._compute(name))
        blocks = self._sampled_blocks if job.sampling is not None else self._blocks
        windows, found = [], []
        with self._maps.lease(job, queries.tile) as maps:
            for window, tables in blocks(name, job, queries):
                given = {**tables, **cast(Mapping[str, Tensor], folded)}
                found.append(self._launcher.run(name, compute, maps, given)["sums"])
                windows.append(window)
        if not found:  # nothing of the tile is sampled
            return
        with computing_on(self._launcher.device):
            download = Download(torch.stack(found))
        (host,) = download.wait()
        if job.sampling is None and job.plan.query_block > MAX_QUERIES and not np.isfinite(host).all():
            yield from self.sums(_in_small_blocks(job), queries, folded, n)
            return
        if job.sampling is not None:
            # A list of samples is no window of its own: all that a tile samples counts for the tile.
            windows, host = [queries.whole], host.sum(0, keepdims=True)
        for window, sums in zip(windows, host, strict=True):
            yield BlockSums(window, self._unpacked(name, sums))

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterable[DecodedBlock]:
        """See `Executor`; finished on the device, where the next block is queued before one is read."""
        finish = finish_name(job, without_uint16(job.frame.dtype))
        compute = _finished(self._compute("decoder"), self._shared(finish), job.frame.dtype)
        tables = self._launcher.tables(
            ("finish", finish, *_places(job, queries)),
            lambda: finish_tables(self._contract, queries.rows, queries.columns),
        )
        # Once per tile: an upload waits for the blocks that are queued.
        frame = self._skip_frame(job, queries)
        with self._maps.lease(job, queries.tile) as maps:

            def submitted() -> Iterator[tuple[Window, Download]]:
                for window, geometry in self._blocks("decoder", job, queries):
                    part = window.within(queries.whole)
                    finishing = {name: _entries(name, value, *part) for name, value in tables.items()}
                    given = {**geometry, **cast(Mapping[str, Tensor], folded), **finishing, "frame": frame}
                    found = self._launcher.run(f"decoder {finish}", compute, maps, given)
                    with computing_on(self._launcher.device):
                        download = Download(found["values"], found["range"])
                    yield window, download

            for flight in one_ahead(submitted()):
                block = _decoded(*flight)
                if job.plan.query_block > MAX_QUERIES and not block.range.is_finite:
                    break
                yield block
            else:
                return
        yield from self.blocks(_in_small_blocks(job), queries, folded)

    def _compute(self, name: str) -> Compute:
        return self._kernels.get(name, self._graphs[name])

    def _blocks(self, name: str, job: Job, queries: TileQueries) -> Iterator[tuple[Window, dict[str, Tensor]]]:
        """Yields windows of a tile's queries and the named graph's geometry inputs for each."""
        names = self._graphs[name].contract.geometry
        tables = self._launcher.tables(
            (*names, *_places(job, queries)),
            lambda: geometry_inputs(names, queries.rows, queries.columns, queries.tile, job.cell),
        )
        for rows, columns in query_blocks(queries.rows.count, queries.columns.count, job.plan.query_block):
            given = {key: _part(key, value, rows, columns) for key, value in tables.items()}
            yield queries.part(rows, columns), given

    def _sampled_blocks(self, name: str, job: Job, queries: TileQueries) -> Iterator[tuple[Window, dict[str, Tensor]]]:
        """Yields the tile's window and geometry inputs for each list of its sampled queries."""
        names, (rows, columns) = self._graphs[name].contract.geometry, _sampled(job, queries)
        for block in steps(len(rows), job.plan.query_block):
            taps = queries.rows[rows[block]], queries.columns[columns[block]]
            key = ("sampled", job.sampling, block.start, job.plan.query_block, *names, *_places(job, queries))
            make = partial(_query_list, names, *taps, queries.tile, job.cell)
            yield queries.whole, self._launcher.tables(key, make)

    def _skip_frame(self, job: Job, queries: TileQueries) -> Tensor:
        """The part of the frame that the skip reads: of the frame that was encoded, which is on the device, or of the
        job's own."""
        part = skip_part(self._contract, queries.rows, queries.columns)
        encoded = features_of(job).frame_on_device(job.frame)
        if encoded is not None:
            return encoded[:1, :1] * 0 if part is None else encoded[part]
        host = np.zeros_like(job.frame[:1, :1]) if part is None else job.frame[part]
        return upload(host, self._launcher.device)

    def _unpacked(self, name: str, sums: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Sums by name, of the shapes that the graph states."""
        outputs = self._graphs[name].contract.outputs
        shapes = [tuple(int(size) for size in tensor.shape) for tensor in outputs]
        ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
        parts = np.split(sums, ends)
        return {tensor.name: part.reshape(shape) for tensor, part, shape in zip(outputs, parts, shapes, strict=True)}


def _in_small_blocks(job: Job) -> Job:
    """The same in smaller blocks: those that hold a value which is not finite are computed on the processor."""
    small = copy(job)
    small.plan = replace(job.plan, query_block=MAX_QUERIES)
    return small


def _packed(compute: Compute) -> Compute:
    """All sums as one float64 vector, in the order of the graph's outputs: one download instead of three."""
    return lambda feeds: {"sums": torch.cat([value.flatten().double() for value in compute(feeds).values()])}


def _finished(compute: Compute, finish: TorchGraph, dtype: np.dtype[Any]) -> Compute:
    """The decoder and its finish graph as one piece of work: maps → values of the frame's type, and their range."""

    def run(feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = finish({**feeds, "colour": compute(feeds)["colour"]})
        values = found["values"].to(torch.uint16) if dtype == np.uint16 else found["values"]
        return {"values": values, "range": torch.stack([found[name] for name in RANGE])}

    return run


def _decoded(window: Window, download: Download) -> DecodedBlock:
    values, scalars = download.wait()
    return DecodedBlock(window, values, colour_range(dict(zip(RANGE, scalars, strict=True))))


def _sampled(job: Job, queries: TileQueries) -> tuple[Index, Index]:
    """Row and column of every query of the tile that statistics passes need, counted from the tile's first."""
    assert job.sampling is not None
    rows, columns = slice(*queries.whole.rows), slice(*queries.whole.columns)
    sampled = job.sampling.rows(rows)
    found = [job.sampling.columns(int(row), columns) for row in sampled]
    every = np.repeat(sampled, [len(part) for part in found])
    return every - rows.start, np.concatenate([*found, np.empty(0, np.int64)]) - columns.start


def _query_list(names: list[str], rows: Axis, columns: Axis, tile: Tile, cell: NDArray[np.float32]) -> Tensors:
    """Geometry inputs of N queries, entry n of `rows` with entry n of `columns`: on a GPU a call per sampled row would
    be thousands of small ones.

    The graphs add and multiply row and column parts, so [·, 1, N] with [·, 1, N] asks N queries where [·, R, 1] with
    [·, 1, W] asks R × W.
    """
    grid = geometry_inputs(names, rows, columns, tile, cell)
    return {name: value.swapaxes(1, 2) if name.startswith("row_") else value for name, value in grid.items()}


def _places(job: Job, queries: TileQueries) -> tuple[object, ...]:
    """All that the tables of a tile depend on."""
    return job.source, job.size, job.cell.tobytes(), queries.whole, queries.tile.key


def _entries(name: str, value: Tensor, rows: slice, columns: slice) -> Tensor:
    """A block's entries of a table of a `finish` graph; the table itself where that is all of them."""
    part = {"row": rows, "column": columns}.get(name.partition("_")[0], slice(None))
    return value if part in (slice(None), slice(0, len(value))) else value[part]


def _part(name: str, value: Tensor, rows: slice, columns: slice) -> Tensor:
    """A block's part of a tile's table, by what its name says of its axes; the table itself where that is all of it."""
    axis, part = (1, rows) if name.startswith("row_") else (2, columns)
    if not name.startswith(("row_", "column_")) or part == slice(0, value.shape[axis]):
        return value
    return value.narrow(axis, part.start, part.stop - part.start)
