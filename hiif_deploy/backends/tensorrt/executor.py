"""Runs a bundle's TensorRT engines: maps once, then statistics and colours over blocks of queries (design/gpu.md)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.memory import DeviceTensor
from hiif_deploy.backends.cuda.streams import Gpu, Slot
from hiif_deploy.backends.tensorrt.features import TrtFeatures
from hiif_deploy.backends.tensorrt.finish import TrtFinish
from hiif_deploy.backends.tensorrt.geometry import Block, BlockTables, DeviceTensors
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import finish_name
from hiif_deploy.decoding.decoder import accumulate
from hiif_deploy.decoding.executor import BlockSums, DecodedBlock, T, run_fold
from hiif_deploy.decoding.job import Job, Sums, TileQueries
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.queries import geometry_inputs
from hiif_deploy.decoding.sampling import Sampling
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.shared_graphs import without_uint16
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.tiling import Tile, length, rectangles, shift, steps

AHEAD = 2
"""Blocks in flight: one computes while the other is copied to the host."""
_Flight = tuple[Block, DeviceTensor, Slot]
"""A block, the bytes of its values on the GPU, and where they are copied to."""


class TrtExecutor:
    """`Executor` on TensorRT engines. Work is queued under the GPU's lock; each call has buffers of its own."""

    def __init__(
        self, gpu: Gpu, contract: Contract, sessions: Mapping[str, TrtSession], folds: Mapping[str, Session]
    ) -> None:
        self._gpu, self._contract, self._sessions, self._folds = gpu, contract, sessions, folds
        self._kept: tuple[TrtFeatures, tuple[int, int, int, int], DeviceTensors] | None = None

    def close(self) -> None:
        """Let go of the maps that were kept."""
        self._kept = None

    def each(self, work: Callable[[TileQueries], Iterable[T]], tiles: Iterable[TileQueries]) -> Iterator[Iterable[T]]:
        """See `Executor`; in turn, because the GPU is shared."""
        return map(work, tiles)

    def place(self, folded: Tensors, graph: str) -> Tensors:
        """See `Executor`; uploaded with a tile's geometry."""
        del graph
        return folded

    def fold(self, n: int, sums: Sums, count: int) -> dict[str, NDArray[Any]]:
        """See `Executor`; tiny and float64, on the processor."""
        return run_fold(self._folds[f"fold_{n}"], sums, count)

    def sums(self, job: Job, queries: TileQueries, folded: Tensors, n: int) -> Iterable[BlockSums]:
        """See `Executor`; one download for all blocks of the tile, or for each grid of sampled ones."""
        session = self._sessions[f"statistics_{n}"]
        if job.sampling is not None:
            yield BlockSums(queries.whole, self._sampled_sums(session, job, job.sampling, queries, folded))
            return
        with self._maps(job, queries.tile) as maps:
            found = self._sum_blocks(session, maps, job, queries, folded)
        for block, sums in found:
            yield BlockSums(queries.part(block.rows, block.columns), sums)

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterable[DecodedBlock]:
        """See `Executor`; one block computes while the other is copied to the host."""
        session = self._sessions["decoder"]
        blocks = self._blocks(session, job.plan, queries)
        waiting: deque[_Flight] = deque()
        with self._maps(job, queries.tile) as maps:
            finishing = self._sessions[finish_name(job, without_uint16(job.frame.dtype))]
            finish = TrtFinish(self._gpu, self._contract, finishing, job, queries, blocks)
            with self._tables(session, job, queries, folded) as tables, finish:
                try:
                    for block in blocks:
                        waiting.append(self._submit(session, maps, tables, finish, block))
                        if len(waiting) == AHEAD:
                            yield self._collect(finish, waiting)
                    while waiting:
                        yield self._collect(finish, waiting)
                finally:
                    # A consumer that stops early leaves blocks in flight.
                    while waiting:
                        self._land(waiting.popleft())

    def _blocks(self, session: TrtSession, plan: Plan, queries: TileQueries) -> list[Block]:
        """Whole rows where the profile has room for them; equal but for the last ones of the tile."""
        columns = min(queries.columns.count, session.limits["column_tap"][-1][2], plan.query_block)
        rows = min(session.limits["row_tap"][-1][1], max(1, plan.query_block // columns))
        return [Block(*part) for part in rectangles(queries.rows.count, queries.columns.count, (rows, columns))]

    def _tables(self, session: TrtSession, job: Job, queries: TileQueries, folded: Tensors) -> BlockTables:
        geometry = geometry_inputs(session.graph.geometry, queries.rows, queries.columns, queries.tile, job.cell)
        return BlockTables(self._gpu, session.graph, {**geometry, **folded})

    @contextmanager
    def _maps(self, job: Job, tile: Tile) -> Iterator[DeviceTensors]:
        """Maps of the tile's source pixels; the last ones are kept, so that the passes over one tile share them."""
        features = job.features
        if not isinstance(features, TrtFeatures):
            raise EngineError("these features were encoded by another engine; encode the picture with this upscaler")
        with self._gpu.turn():
            kept, self._kept = self._kept, None
        maps = kept[2] if kept is not None and kept[0] is features and kept[1] == tile.key else None
        if maps is None:
            with self._gpu.turn():
                if kept is not None:
                    self._gpu.pool.give(*kept[2].values())
                maps = self._make_maps(features, tile)
        try:
            yield maps
        finally:
            with self._gpu.turn():
                if self._kept is not None:
                    self._gpu.pool.give(*self._kept[2].values())
                self._kept = (features, tile.key, maps)

    def _make_maps(self, features: TrtFeatures, tile: Tile) -> DeviceTensors:
        session, halo, pool = self._sessions["maps"], self._contract.decoder.halo, self._gpu.pool
        height, width = length(tile.source_rows), length(tile.source_columns)
        maps = {t.name: pool.take((height * width, int(t.shape[1])), t.dtype) for t in session.graph.outputs}
        most = session.limits["features"][-1][2] - 2 * halo
        try:
            for rows in steps(height, most):
                shape = (1, features.shape[0], length(rows) + 2 * halo, width + 2 * halo)
                parts = {name: tensor.rows(rows.start * width, rows.stop * width) for name, tensor in maps.items()}
                with pool.lease() as take:
                    crop = take(shape, session.graph.inputs[0].dtype)
                    features.crop(crop, shift(tile.source_rows, rows), tile.source_columns)
                    session.enqueue({"features": crop, **parts}, self._gpu.compute)
        except BaseException:
            pool.give(*maps.values())
            raise
        return maps

    def _sampled_sums(
        self, session: TrtSession, job: Job, sampling: Sampling, queries: TileQueries, folded: Tensors
    ) -> Sums:
        """Sums over the sampled queries of a tile, which are some grids of rows and columns."""
        total: Sums = {}
        rows, columns = slice(*queries.whole.rows), slice(*queries.whole.columns)
        with self._maps(job, queries.tile) as maps:
            for some, found in sampling.grids(rows, columns):
                axes = queries.rows[some - rows.start], queries.columns[found - columns.start]
                grid = TileQueries(queries.window, queries.tile, *axes)
                for _, sums in self._sum_blocks(session, maps, job, grid, folded):
                    accumulate(total, sums)
        return total

    def _sum_blocks(
        self, session: TrtSession, maps: DeviceTensors, job: Job, queries: TileQueries, folded: Tensors
    ) -> list[tuple[Block, dict[str, NDArray[Any]]]]:
        """Blocks of the queries and the sums of each by output name; one download for all of them."""
        gpu, results = self._gpu, session.graph.outputs
        blocks = self._blocks(session, job.plan, queries)
        with gpu.turn(), gpu.pool.lease() as take, self._tables(session, job, queries, folded) as tables:
            shapes = {t.name: tuple(int(size) for size in t.shape) for t in results}
            outputs = {t.name: take(shapes[t.name], t.dtype) for t in results}
            every = {t.name: take((len(blocks), *shapes[t.name]), t.dtype) for t in results}
            for index, block in enumerate(blocks):
                session.enqueue({**maps, **tables.of(block), **outputs}, gpu.compute)
                for name, tensor in outputs.items():
                    size = tensor.nbytes
                    gpu.device.copy_rows(every[name][index].address, size, tensor.address, size, size, 1, gpu.compute)
            found = {name: np.empty(tensor.shape, tensor.dtype) for name, tensor in every.items()}
            for name, tensor in every.items():
                gpu.device.download(found[name], tensor.address, gpu.compute)
            gpu.device.synchronize(gpu.compute)
        return [(block, {name: values[n] for name, values in found.items()}) for n, block in enumerate(blocks)]

    def _submit(
        self, session: TrtSession, maps: DeviceTensors, tables: BlockTables, finish: TrtFinish, block: Block
    ) -> _Flight:
        """Queue a block's colours, their finishing and the download of its values."""
        gpu, output = self._gpu, session.graph.outputs[0]
        with gpu.turn(), gpu.pool.lease() as take:
            colour = take((math.prod(block.shape), 3), output.dtype)
            session.enqueue({**maps, **tables.of(block), output.name: colour}, gpu.compute)
            packed = finish.enqueue(block, colour)
            return block, packed, gpu.download(packed)

    def _collect(self, finish: TrtFinish, waiting: deque[_Flight]) -> DecodedBlock:
        block, packed, slot = waiting[0]
        self._gpu.slots.wait(slot)
        decoded = finish.read(block, slot.pinned[: packed.nbytes])
        self._land(waiting.popleft())
        return decoded

    def _land(self, flight: _Flight) -> None:
        """Give the memory of a block back, once it has been copied."""
        _, packed, slot = flight
        self._gpu.slots.wait(slot)
        with self._gpu.turn():
            self._gpu.slots.give(slot)
            self._gpu.pool.give(packed)
