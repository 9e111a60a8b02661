"""Features → colours on the GPU: maps once, then statistics and colours over blocks of queries (design/gpu.md)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.streams import Gpu, Slot
from hiif_deploy.backends.fp32_fallback import Rescue
from hiif_deploy.backends.tensorrt.features import DeviceFeatures
from hiif_deploy.backends.tensorrt.geometry import Block, DeviceTensors, Geometry
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.compose import finish
from hiif_deploy.decoding.decoder import accumulate, fold
from hiif_deploy.decoding.job import Job, Statistics, Sums, Window
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import Tile, decoder_tiles, length, rectangles, shift, steps

Array = NDArray[np.float32]
Advance = Callable[[int], None]
UNBOUNDED = 1 << 62
"""Queries of a tile: here its blocks are what is bounded."""
AHEAD = 2
"""Blocks in flight: one computes while the other is copied and finished on the host."""


class TrtDecoder:
    """The decoder's engines. Queueing is done under the GPU's lock; each call has buffers of its own."""

    def __init__(
        self, gpu: Gpu, contract: Contract, sessions: dict[str, TrtSession], folds: dict[str, Session],
        rescue: Rescue, maps_bytes: int,
    ) -> None:  # fmt: skip
        self._gpu, self._contract, self._sessions, self._folds = gpu, contract, sessions, folds
        self._rescue = rescue
        self._maps_bytes = maps_bytes
        self._kept: tuple[DeviceFeatures, tuple[int, int, int, int], DeviceTensors] | None = None

    def statistics(self, job: Job, window: Window, advance: Advance) -> Statistics:
        """All statistics passes over the queries of `window`."""
        if job.sampling is not None:
            raise OptionError("sampled statistics run on the processor's engines; this one takes all queries: exact")
        folded: dict[str, NDArray[Any]] = {}
        for n in range(self._contract.decoder.statistics_passes):
            sums: Sums = {}
            for tile, rows, columns in self._tiles(job, window):
                accumulate(sums, self._sum_tile(job, window, tile, rows, columns, folded, n))
                advance(1)
            folded.update(fold(self._folds[f"fold_{n}"], sums, job.count(window)))
        return Statistics(folded)

    def colours(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance
    ) -> Iterator[tuple[slice, slice, Array]]:
        """Yields (rows, columns) within `window` and unclamped colours [r, c, 3], 1 being white."""
        for tile, rows, columns in self._tiles(job, window):
            for block, colours in self._colour_tile(job, tile, rows, columns, statistics):
                part = shift(tile.rows, block.rows), shift(tile.columns, block.columns)
                if not np.isfinite(colours).all():
                    colours = self._rescue.colours(job, _within(window, *part), statistics)
                else:
                    colours = finish(self._contract, colours, job.image, rows[block.rows], columns[block.columns])
                yield *part, colours
            advance(1)

    def tile_count(self, source: Size, target: Size, window: Window) -> int:
        """How many tiles a pass over `window` has."""
        rows, columns = query_axes(self._contract, source, target, window)
        return len(decoder_tiles(rows, columns, self._cell(source), UNBOUNDED))

    def close(self) -> None:
        """Let go of the maps that were kept."""
        self._kept = None

    def _tiles(self, job: Job, window: Window) -> Iterator[tuple[Tile, Axis, Axis]]:
        rows, columns = query_axes(self._contract, job.source, job.size, window)
        for tile in decoder_tiles(rows, columns, self._cell(job.source), UNBOUNDED):
            yield tile, rows[tile.rows], columns[tile.columns]

    def _cell(self, source: Size) -> Size:
        """Source (rows, columns) of a tile: what profiles and memory for maps allow, the whole picture at best."""
        limits = self._sessions["maps"].limits["features"][1]
        most_columns = limits[3] - 2 * self._contract.decoder.halo
        # A tile of n source pixels per axis needs the maps of n + 1.
        columns = source[1] if source[1] <= most_columns else most_columns - 1
        pixels = min(self._sessions["decoder"].limits["map_0"][1][0], self._maps_bytes // self._pixel_bytes)
        rows = source[0] if source[0] * min(columns + 1, source[1]) <= pixels else pixels // (columns + 1) - 1
        if min(rows, columns) < 1:
            needed = 2 * (columns + 1) * self._pixel_bytes
            raise OptionError(
                f"the maps of two rows of {source[1]} pixels need {needed >> 20} MiB of GPU memory, and "
                f"{self._maps_bytes >> 20} MiB are allowed: allow more (gpu_memory)"
            )
        return rows, columns

    @property
    def _pixel_bytes(self) -> int:
        outputs = self._sessions["maps"].graph.outputs
        return sum(int(tensor.shape[1]) * np.dtype(tensor.dtype).itemsize for tensor in outputs)

    def _blocks(self, session: TrtSession, rows: int, columns: int) -> list[Block]:
        """Portions of the size that the engine is fastest for; equal but for the last ones of the tile."""
        most = session.limits["row_tap"][1][1], session.limits["column_tap"][1][2]
        return [Block(*part) for part in rectangles(rows, columns, most)]

    @contextmanager
    def _maps(self, job: Job, tile: Tile) -> Iterator[DeviceTensors]:
        """Maps of the tile's source pixels; the last ones are kept, so that the passes over one tile share them."""
        features = job.features
        if not isinstance(features, DeviceFeatures):
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

    def _make_maps(self, features: DeviceFeatures, tile: Tile) -> DeviceTensors:
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

    def _sum_tile(
        self, job: Job, window: Window, tile: Tile, rows: Axis, columns: Axis, folded: Tensors, n: int
    ) -> Sums:
        session = self._sessions[f"statistics_{n}"]
        blocks = self._blocks(session, rows.count, columns.count)
        with self._maps(job, tile) as maps:
            parts = self._sum_blocks(
                session, maps, Geometry(self._gpu, session.graph, job, tile, rows, columns, folded), blocks
            )
        finite = np.logical_and.reduce([np.isfinite(part).reshape(len(blocks), -1).all(1) for part in parts.values()])
        sums: Sums = {name: part[finite].sum(0, dtype=np.float64) for name, part in parts.items()}
        for index in np.flatnonzero(~finite):
            part = shift(tile.rows, blocks[index].rows), shift(tile.columns, blocks[index].columns)
            accumulate(sums, self._rescue.sums(job, _within(window, *part), folded, n))
        return sums

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

    def _colour_tile(
        self, job: Job, tile: Tile, rows: Axis, columns: Axis, statistics: Statistics
    ) -> Iterator[tuple[Block, Array]]:
        """Yields blocks and the decoder's answers [r, c, 3]."""
        gpu, session = self._gpu, self._sessions["decoder"]
        geometry = Geometry(gpu, session.graph, job, tile, rows, columns, statistics.folded)
        waiting: deque[tuple[Block, Slot, NDArray[Any]]] = deque()
        with self._maps(job, tile) as maps, geometry:
            try:
                for block in self._blocks(session, rows.count, columns.count):
                    waiting.append(self._ask(session, maps, geometry, block))
                    if len(waiting) == AHEAD:
                        yield self._collect(waiting)
                while waiting:
                    yield self._collect(waiting)
            finally:
                # A consumer that stops early leaves blocks in flight.
                for _, slot, _ in waiting:
                    gpu.slots.wait(slot)
                    gpu.slots.give(slot)

    def _ask(
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
        block, slot, answer = waiting.popleft()
        self._gpu.slots.wait(slot)
        colours = np.array(answer, dtype=np.float32).reshape(*block.shape, 3)
        self._gpu.slots.give(slot)
        return block, colours


def _within(window: Window, rows: slice, columns: slice) -> Window:
    """The part of a window as a window of the same picture."""
    top, left = window.rows[0], window.columns[0]
    return replace(
        window, rows=(top + rows.start, top + rows.stop), columns=(left + columns.start, left + columns.stop)
    )
