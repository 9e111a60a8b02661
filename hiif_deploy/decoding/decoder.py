"""Features → colours: statistics passes, folding, decode pass, over tiles and blocks of queries.

Decoders whose queries are coupled (linear attention averages KᵀV over all of them) are asked in passes: each
statistics pass sums over every query, then a fold graph turns the sums into tensors for the next passes. So the
answer does not depend on how the queries are cut (design/decoding.md §2).
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.compose import finish
from hiif_deploy.decoding.job import SAMPLED, Advance, Array, Block, Job, Part, Statistics, Sums, Window, _absolute
from hiif_deploy.decoding.queries import geometry_inputs, query_axes
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.state_cache import Key
from hiif_deploy.errors import BundleError
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.geometry.tiling import Tile, decoder_tiles, query_blocks, shift


class Decoder:
    """The decoder's graphs and the threads that run them. Thread-safe: calls share nothing but the sessions."""

    def __init__(self, contract: Contract, sessions: dict[str, Session], threads: int) -> None:
        self.contract = contract
        self.sessions = sessions
        """Graphs by name."""
        self._ahead = 2 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hiif-decode")
        self._names = {graph.name: graph.geometry for graph in contract.graphs}

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def statistics(self, job: Job, window: Window, advance: Advance) -> Statistics:
        """All statistics passes over the queries of `window`, or over those that the job's sampling takes."""
        folded: dict[str, NDArray[Any]] = {}
        count = job.count(window)
        for n in range(self.contract.decoder.statistics_passes):
            sums = self.sums(job, window, folded, n, advance)
            folded.update(fold(self.sessions[f"fold_{n}"], sums, count))
        return Statistics(folded)

    def sums(self, job: Job, window: Window, folded: Tensors, n: int, advance: Advance) -> Sums:
        """What pass `n` sums up over the queries of `window`, given what earlier passes found."""

        def work(tile: Tile, rows: Axis, columns: Axis) -> Sums:
            part: Sums = {}
            maps = self._maps(job, tile)
            for parts in job.asked(window, tile):
                blocks = [block for _, _, block in _blocks(window, tile, rows, columns, parts, maps)]
                self.add_sums(part, job, blocks, folded, n)
            return part

        sums: Sums = {}
        for part in self._map(job, window, work, advance):
            accumulate(sums, part)
        return sums

    def colours(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance
    ) -> Iterator[tuple[slice, slice, Array]]:
        """Yields (rows, columns) within `window` and unclamped colours [r, c, 3], 1 being white."""

        def work(tile: Tile, rows: Axis, columns: Axis) -> tuple[slice, slice, Array]:
            colours = self.tile_colours(job, window, tile, rows, columns, statistics)
            return tile.rows, tile.columns, finish(self.contract, colours, job.image, rows, columns)

        yield from self._map(job, window, work, advance)

    def tile_colours(
        self, job: Job, window: Window, tile: Tile, rows: Axis, columns: Axis, statistics: Statistics
    ) -> Array:
        """The decoder's answers [R, W, 3] to one tile."""
        colours = np.empty((rows.count, columns.count, 3), dtype=np.float32)
        parts = query_blocks(rows.count, columns.count, job.plan.query_block)
        for row, column, block in _blocks(window, tile, rows, columns, parts, self._maps(job, tile)):
            part = colours[row, column]
            part[...] = reshaped(self.block_colours(job, block, statistics.folded), part.shape)
        return colours

    def add_sums(self, sums: Sums, job: Job, blocks: list[Block], folded: Tensors, n: int) -> None:
        """Pass `n` over blocks of one tile; what it finds is added to `sums`."""
        for block in blocks:
            accumulate(sums, self._run(f"statistics_{n}", job, block, {**block.maps(), **folded}))

    def block_colours(self, job: Job, block: Block, folded: Tensors) -> Array:
        """The decoder's answers [R · W, 3] to one block."""
        colours: Array = self._run("decoder", job, block, {**block.maps(), **folded})["colour"]
        return colours

    def _maps(self, job: Job, tile: Tile) -> Callable[[], Tensors]:
        return functools.cache(lambda: job.maps(tile, self.sessions["maps"]))

    def _run(self, graph: str, job: Job, block: Block, feeds: Tensors) -> Tensors:
        geometry = geometry_inputs(self._names[graph], block.rows, block.columns, block.tile, job.cell)
        return self.sessions[graph].run({**feeds, **geometry})

    def _map(
        self, job: Job, window: Window, work: Callable[[Tile, Axis, Axis], Any], advance: Advance
    ) -> Iterator[Any]:
        """`work` on every tile of the window, on all threads, results in order."""
        rows, columns = query_axes(self.contract, job.source, job.size, window)
        waiting = iter(decoder_tiles(rows, columns, job.plan.decoder_tile, job.plan.tile_queries))

        def submit(tile: Tile) -> Future[Any]:
            return self._pool.submit(work, tile, rows[tile.rows], columns[tile.columns])

        # Bounded, so that finished tiles never pile up in front of a slow consumer.
        futures = deque(submit(tile) for tile in islice(waiting, self._ahead))
        try:
            while futures:
                result = futures.popleft().result()
                futures.extend(submit(tile) for tile in islice(waiting, 1))
                yield result
                advance(1)
        finally:
            for future in futures:
                future.cancel()


def fold(session: Session, sums: Sums, count: int) -> dict[str, NDArray[Any]]:
    """Sums over `count` queries → inputs of the next passes."""
    return session.run({**sums, "count": np.array([count], dtype=np.float64)})


def _blocks(
    window: Window, tile: Tile, rows: Axis, columns: Axis, parts: Iterable[tuple[Part, Part]],
    maps: Callable[[], Tensors],
) -> Iterator[tuple[Part, Part, Block]]:  # fmt: skip
    for row, column in parts:
        yield row, column, Block(tile, rows[row], columns[column], _key(window, tile, row, column), maps)


def _key(window: Window, tile: Tile, row: Part, column: Part) -> Key:
    """Names a block of the output picture: first and last row and column, or a sample's first ones and SAMPLED."""
    rows, columns = _absolute(window, tile)
    if isinstance(row, slice) and isinstance(column, slice):
        row, column = shift(rows, row), shift(columns, column)
        return row.start, row.stop, column.start, column.stop
    return rows.start + _first_of(row), columns.start + _first_of(column), SAMPLED


def _first_of(part: Part) -> int:
    return int(part.start if isinstance(part, slice) else part[0])


def reshaped(colours: Array, shape: tuple[int, ...]) -> Array:
    """A decoder's answers [queries, 3] as [R, W, 3]; BundleError where it answered another number of queries."""
    if colours.size != math.prod(shape):
        raise BundleError(
            f"the decoder answered {list(colours.shape)} to {shape[0]}x{shape[1]} queries: export the bundle again"
        )
    return colours.reshape(shape)


def accumulate(sums: Sums, part: Tensors) -> None:
    """Add the values of `part` to `sums` by name, in float64."""
    for name, value in part.items():
        sums[name] = sums.get(name, 0) + value.astype(np.float64)
