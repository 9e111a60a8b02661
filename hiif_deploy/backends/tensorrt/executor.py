"""Runs a bundle's TensorRT engines: maps once, then statistics and colours over blocks of queries (design/gpu.md)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.streams import Gpu, Slot
from hiif_deploy.backends.tensorrt.features import TrtFeatures
from hiif_deploy.backends.tensorrt.geometry import Block, DeviceTensors, Geometry
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.executor import BlockSums, DecodedBlock, T, run_fold
from hiif_deploy.decoding.job import Job, Sums, TileQueries
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.tiling import Tile, length, rectangles, shift, steps

Array = NDArray[np.float32]
AHEAD = 2
"""Blocks in flight: one computes while the other is copied and finished on the host."""


class TrtExecutor:
    """`Executor` on TensorRT engines. Work is queued under the GPU's lock; each call has buffers of its own."""

    def __init__(
        self, gpu: Gpu, contract: Contract, sessions: dict[str, TrtSession], folds: dict[str, Session],
        converter: FrameConverter,
    ) -> None:  # fmt: skip
        self._gpu, self._contract, self._sessions, self._folds = gpu, contract, sessions, folds
        self._converter = converter
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
        """See `Executor`; one download for all blocks of the tile."""
        session = self._sessions[f"statistics_{n}"]
        blocks = self._blocks(session, queries)
        with self._maps(job, queries.tile) as maps:
            parts = self._sum_blocks(session, maps, Geometry(self._gpu, session.graph, job, queries, folded), blocks)
        for index, block in enumerate(blocks):
            sums = {name: values[index] for name, values in parts.items()}
            yield BlockSums(queries.part(block.rows, block.columns), sums)

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterable[DecodedBlock]:
        """See `Executor`; one block computes while the other is copied to the host and finished there."""
        for block, colours in self._colours(job, queries, folded):
            rows, columns = queries.rows[block.rows], queries.columns[block.columns]
            yield self._converter.block(job, queries.part(block.rows, block.columns), rows, columns, colours)

    def _blocks(self, session: TrtSession, queries: TileQueries) -> list[Block]:
        """Portions of the size that the engine is fastest for; equal but for the last ones of the tile."""
        most = session.limits["row_tap"][1][1], session.limits["column_tap"][1][2]
        return [Block(*part) for part in rectangles(queries.rows.count, queries.columns.count, most)]

    @contextmanager
    def _maps(self, job: Job, tile: Tile) -> Iterator[DeviceTensors]:
        """Maps of the tile's source pixels; the last ones are kept, so that the passes over one tile share them."""
        features = job.features
        if not isinstance(features, TrtFeatures):
            raise EngineError("these features were encoded by another engine; encode the picture with this upscaler")
        with self._gpu.lock:
            kept, self._kept = self._kept, None
        maps = kept[2] if kept is not None and kept[0] is features and kept[1] == tile.key else None
        if maps is None:
            with self._gpu.lock:
                if kept is not None:
                    self._gpu.pool.give(*kept[2].values())
                maps = self._make_maps(features, tile)
        try:
            yield maps
        finally:
            with self._gpu.lock:
                if self._kept is not None:
                    self._gpu.pool.give(*self._kept[2].values())
                self._kept = (features, tile.key, maps)

    def _make_maps(self, features: TrtFeatures, tile: Tile) -> DeviceTensors:
        session, halo, pool = self._sessions["maps"], self._contract.decoder.halo, self._gpu.pool
        height, width = length(tile.source_rows), length(tile.source_columns)
        maps = {t.name: pool.take((height * width, int(t.shape[1])), t.dtype) for t in session.graph.outputs}
        most = session.limits["features"][1][2] - 2 * halo
        for rows in steps(height, most):
            shape = (1, features.shape[0], length(rows) + 2 * halo, width + 2 * halo)
            parts = {name: tensor.rows(rows.start * width, rows.stop * width) for name, tensor in maps.items()}
            with pool.lease() as take:
                crop = take(shape, session.graph.inputs[0].dtype)
                features.crop(crop, shift(tile.source_rows, rows), tile.source_columns)
                session.enqueue({"features": crop, **parts}, self._gpu.compute)
        return maps

    def _sum_blocks(
        self, session: TrtSession, maps: DeviceTensors, geometry: Geometry, blocks: list[Block]
    ) -> dict[str, NDArray[Any]]:
        """Output name → [blocks, …], one download for all of them."""
        gpu, results = self._gpu, session.graph.outputs
        with gpu.lock, gpu.pool.lease() as take, geometry:
            shapes = {t.name: tuple(int(size) for size in t.shape) for t in results}
            outputs = {t.name: take(shapes[t.name], t.dtype) for t in results}
            every = {t.name: take((len(blocks), *shapes[t.name]), t.dtype) for t in results}
            for index, block in enumerate(blocks):
                session.enqueue({**maps, **geometry.of(block), **outputs}, gpu.compute)
                for name, tensor in outputs.items():
                    size = tensor.nbytes
                    gpu.device.copy_rows(every[name][index].address, size, tensor.address, size, size, 1, gpu.compute)
            found = {name: np.empty(tensor.shape, tensor.dtype) for name, tensor in every.items()}
            for name, tensor in every.items():
                gpu.device.download(found[name], tensor.address, gpu.compute)
            gpu.device.synchronize(gpu.compute)
        return found

    def _colours(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterator[tuple[Block, Array]]:
        """Yields blocks and the decoder's output [r, c, 3]."""
        gpu, session = self._gpu, self._sessions["decoder"]
        geometry = Geometry(gpu, session.graph, job, queries, folded)
        waiting: deque[tuple[Block, Slot, NDArray[Any]]] = deque()
        with self._maps(job, queries.tile) as maps, geometry:
            try:
                for block in self._blocks(session, queries):
                    waiting.append(self._submit(session, maps, geometry, block))
                    if len(waiting) == AHEAD:
                        yield self._collect(waiting)
                while waiting:
                    yield self._collect(waiting)
            finally:
                # A consumer that stops early leaves blocks in flight.
                for _, slot, _ in waiting:
                    gpu.slots.wait(slot)
                    gpu.slots.give(slot)

    def _submit(
        self, session: TrtSession, maps: DeviceTensors, geometry: Geometry, block: Block
    ) -> tuple[Block, Slot, NDArray[Any]]:
        gpu = self._gpu
        output = session.graph.outputs[0]
        with gpu.lock, gpu.pool.lease() as take:
            colour = take((math.prod(block.shape), 3), output.dtype)
            slot = gpu.slots.take(colour.nbytes)
            session.enqueue({**maps, **geometry.of(block), output.name: colour}, gpu.compute)
            return block, slot, gpu.download(colour, slot)

    def _collect(self, waiting: deque[tuple[Block, Slot, NDArray[Any]]]) -> tuple[Block, Array]:
        block, slot, output = waiting.popleft()
        self._gpu.slots.wait(slot)
        colours = np.array(output, dtype=np.float32).reshape(*block.shape, 3)
        self._gpu.slots.give(slot)
        return block, colours
