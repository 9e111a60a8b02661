"""Runs a bundle's TensorRT engines: maps once, then statistics and colours over blocks of queries (design/gpu.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.memory import DeviceTensor, Packing
from hiif_deploy.backends.cuda.streams import Download, Gpu
from hiif_deploy.backends.tensorrt.features import TrtFeatures
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.backends.tensorrt.tables import Block, BlockTables, DeviceTensors
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import RANGE, colour_range, finish_feeds, finish_name, skip_part
from hiif_deploy.decoding.decoder import accumulate
from hiif_deploy.decoding.executor import BlockSums, DecodedBlock, DeviceExecutor, one_ahead
from hiif_deploy.decoding.job import Job, Sums, TileQueries
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.queries import geometry_inputs
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.shared_graphs import without_uint16
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.tiling import Tile, length, rectangles, shift, steps


class TrtExecutor(DeviceExecutor):
    """`Executor` on TensorRT engines. Work is queued under the GPU's lock; each call has memory of its own."""

    def __init__(
        self, gpu: Gpu, contract: Contract, sessions: Mapping[str, TrtSession], folds: Mapping[str, Session]
    ) -> None:
        super().__init__(folds)
        self._gpu, self._contract, self._sessions = gpu, contract, sessions

    def place(self, folded: Tensors, graph: str) -> Tensors:
        """See `Executor`; uploaded with a tile's geometry."""
        del graph
        return folded

    def sums(self, job: Job, queries: TileQueries, folded: Tensors, n: int) -> Iterable[BlockSums]:
        """See `Executor`; one download for all blocks of the tile, or for each grid of sampled ones."""
        session = self._sessions[f"statistics_{n}"]
        maps = self._maps(job, queries.tile)
        if job.sampling is None:
            for block, sums in self._sum_blocks(session, maps, job, queries, folded):
                yield BlockSums(queries.part(block.rows, block.columns), sums)
            return
        total: Sums = {}
        rows, columns = slice(*queries.whole.rows), slice(*queries.whole.columns)
        for some, found in job.sampling.grids(rows, columns):
            axes = queries.rows[some - rows.start], queries.columns[found - columns.start]
            grid = TileQueries(queries.window, queries.tile, *axes)
            for _, sums in self._sum_blocks(session, maps, job, grid, folded):
                accumulate(total, sums)
        yield BlockSums(queries.whole, total)

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterable[DecodedBlock]:
        """See `Executor`; one block computes while the other is copied to the host."""
        session, finish = self._sessions["decoder"], self._sessions[finish_name(job, without_uint16(job.frame.dtype))]
        maps = self._maps(job, queries.tile)
        with self._gpu.turn():
            tables = self._tables(session, job, queries, folded)
            frame, feeds = self._skip_frame(job, queries)
            finishing = BlockTables(self._gpu, finish.graph, feeds)

        def submitted() -> Iterator[tuple[Block, Packing, Download]]:
            for block in self._blocks(session, job.plan, queries):
                packing = _finished(block, job, finish)
                with self._gpu.turn():
                    colour = self._gpu.pool.take((math.prod(block.shape), 3), session.graph.outputs[0].dtype)
                    session.enqueue({**maps, **tables.of(block), "colour": colour})
                    packed = self._gpu.pool.take((packing.nbytes,), np.uint8)
                    given = {**finishing.of(block), "frame": frame, "colour": colour}
                    finish.enqueue({**given, **packing.tensors(packed)})
                    download = self._gpu.download(packed)
                yield block, packing, download

        for flight in one_ahead(submitted()):
            yield _decoded(job, queries, *flight)

    def _blocks(self, session: TrtSession, plan: Plan, queries: TileQueries) -> list[Block]:
        """Whole rows where the profile has room for them; equal but for the last ones of the tile."""
        columns = min(queries.columns.count, session.limits["column_tap"][-1][2], plan.query_block)
        rows = min(session.limits["row_tap"][-1][1], max(1, plan.query_block // columns))
        return [Block(*part) for part in rectangles(queries.rows.count, queries.columns.count, (rows, columns))]

    def _tables(self, session: TrtSession, job: Job, queries: TileQueries, folded: Tensors) -> BlockTables:
        geometry = geometry_inputs(session.graph.geometry, queries.rows, queries.columns, queries.tile, job.cell)
        return BlockTables(self._gpu, session.graph, {**geometry, **folded})

    def _skip_frame(self, job: Job, queries: TileQueries) -> tuple[DeviceTensor, dict[str, NDArray[Any]]]:
        """The pixels that the skip reads, and the tables of the `finish` graph, whose taps count from the first of
        them: of the frame that was encoded, which may be on the GPU, or of the part that this tile needs."""
        feeds = finish_feeds(self._contract, job.frame, queries.rows, queries.columns)
        part = feeds.pop("frame")
        place = skip_part(self._contract, queries.rows, queries.columns)
        kept = None if place is None else job.features.kept_frame(job.frame)
        if place is None or kept is None:
            return self._gpu.upload(part, without_uint16(part.dtype)), feeds
        for axis, pixels in zip(("row", "column"), place, strict=True):
            for tap in ("lower", "upper"):
                feeds[f"{axis}_skip_{tap}"] = feeds[f"{axis}_skip_{tap}"] + pixels.start
        return kept, feeds

    def _maps(self, job: Job, tile: Tile) -> DeviceTensors:
        """Maps of the tile's source pixels, kept for the next pass where memory allows."""
        features = job.features
        if not isinstance(features, TrtFeatures):
            raise EngineError("these features were encoded by another engine; encode the picture with this upscaler")
        # To the job a tensor is as good as an array.
        return cast(DeviceTensors, job.kept_maps(tile, lambda: cast(Tensors, self._make_maps(features, tile))))

    def _make_maps(self, features: TrtFeatures, tile: Tile) -> DeviceTensors:
        session, pool = self._sessions["maps"], self._gpu.pool
        height, width = length(tile.source_rows), length(tile.source_columns)
        most = session.limits["features"][-1][2] - 2 * features.halo
        with self._gpu.turn():
            maps = {t.name: pool.take((height * width, int(t.shape[1])), t.dtype) for t in session.graph.outputs}
            for rows in steps(height, most):
                crop = features.crop(shift(tile.source_rows, rows), tile.source_columns)
                parts = {name: tensor.rows(rows.start * width, rows.stop * width) for name, tensor in maps.items()}
                session.enqueue({"features": crop, **parts})
        return maps

    def _sum_blocks(
        self, session: TrtSession, maps: DeviceTensors, job: Job, queries: TileQueries, folded: Tensors
    ) -> list[tuple[Block, dict[str, NDArray[Any]]]]:
        """Blocks of the queries and the sums of each by output name; one download for all of them."""
        blocks = self._blocks(session, job.plan, queries)
        packing = Packing({t.name: (tuple(map(int, t.shape)), t.dtype) for t in session.graph.outputs})
        with self._gpu.turn():
            tables = self._tables(session, job, queries, folded)
            every = self._gpu.pool.take((len(blocks), packing.nbytes), np.uint8)
            for n, block in enumerate(blocks):
                session.enqueue({**maps, **tables.of(block), **packing.tensors(every[n])})
            download = self._gpu.download(every)
        return [(block, packing.arrays(data)) for block, data in zip(blocks, download.wait(), strict=True)]


def _finished(block: Block, job: Job, finish: TrtSession) -> Packing:
    """Where a `finish` graph writes a block's values, and their range."""
    values = (*block.shape, job.frame.shape[2]), finish.graph.outputs[0].dtype
    return Packing({"values": values, **dict.fromkeys(RANGE, ((), np.float32))})


def _decoded(job: Job, queries: TileQueries, block: Block, packing: Packing, download: Download) -> DecodedBlock:
    found = packing.arrays(download.wait())
    values = found["values"].astype(job.frame.dtype, copy=False)
    return DecodedBlock(queries.part(block.rows, block.columns), values, colour_range(found))
