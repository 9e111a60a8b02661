"""Runs a bundle's graphs as sessions whose tensors the host can hand from graph to graph, on its own threads."""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.decoder import accumulate
from hiif_deploy.decoding.executor import BlockSums, DecodedBlock, T, run_fold
from hiif_deploy.decoding.job import SAMPLED, Array, Job, Part, Sums, TileQueries
from hiif_deploy.decoding.queries import geometry_inputs
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.state_cache import Key
from hiif_deploy.decoding.worker_pool import WorkerPool
from hiif_deploy.errors import BundleError
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.geometry.tiling import Tile, query_blocks, shift


@dataclass(frozen=True)
class Block:
    """Queries of one decoder call: some rows × some columns of a tile."""

    tile: Tile
    """Where their source pixels lie."""
    rows: Axis
    """Table of the rows."""
    columns: Axis
    """Table of the columns."""
    key: Key
    """Names these queries among all of the output picture."""
    maps: Callable[[], Tensors]
    """Maps of the tile; computed when first called, once for all of its blocks."""

    @property
    def is_sample(self) -> bool:
        """Whether only statistics passes need these queries, together."""
        return self.key[-1] == SAMPLED


class SessionExecutor:
    """`Executor` on sessions. Thread-safe: calls share nothing but the sessions."""

    def __init__(
        self, contract: Contract, sessions: dict[str, Session], converter: FrameConverter, threads: int
    ) -> None:
        """`sessions` by graph name; `threads` tiles are worked on at once."""
        self.contract = contract
        self.sessions = sessions
        self._converter = converter
        self._ahead = 2 * threads
        self._pool = WorkerPool(threads, thread_name_prefix="hiif-decode")
        self._geometry = {graph.name: graph.geometry for graph in contract.graphs}

    def close(self) -> None:
        """End the worker threads."""
        self._pool.shutdown()

    def each(self, work: Callable[[TileQueries], Iterable[T]], tiles: Iterable[TileQueries]) -> Iterator[list[T]]:
        """See `Executor`; on all threads."""
        waiting = iter(tiles)

        def submit(tile: TileQueries) -> Future[list[T]]:
            return self._pool.submit(lambda: list(work(tile)))

        # Bounded, so that finished tiles never pile up in front of a slow consumer.
        futures = deque(submit(tile) for tile in islice(waiting, self._ahead))
        try:
            while futures:
                result = futures.popleft().result()
                futures.extend(submit(tile) for tile in islice(waiting, 1))
                yield result
        finally:
            for future in futures:
                future.cancel()

    def place(self, folded: Tensors, graph: str) -> Tensors:
        """See `Executor`; arrays of the host stay where they are."""
        del graph
        return folded

    def fold(self, n: int, sums: Sums, count: int) -> dict[str, NDArray[Any]]:
        """See `Executor`."""
        return run_fold(self.sessions[f"fold_{n}"], sums, count)

    def sums(self, job: Job, queries: TileQueries, folded: Tensors, n: int) -> Iterable[BlockSums]:
        """See `Executor`; one sum for the whole tile."""
        total: Sums = {}
        maps = self._maps(job, queries.tile)
        for parts in job.statistics_blocks(queries):
            self.add_sums(total, job, [block for _, _, block in _blocks(queries, parts, maps)], folded, n)
        yield BlockSums(queries.whole, dict(total))

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterable[DecodedBlock]:
        """See `Executor`; the whole tile at once."""
        colours = self.tile_colours(job, queries, folded)
        yield self._converter.block(job, queries.whole, queries.rows, queries.columns, colours)

    def tile_colours(self, job: Job, queries: TileQueries, folded: Tensors) -> Array:
        """The decoder's output [R, W, 3] for one tile."""
        colours = np.empty((queries.rows.count, queries.columns.count, 3), dtype=np.float32)
        for row, column, block in query_parts(job, queries, self._maps(job, queries.tile)):
            part = colours[row, column]
            part[...] = reshaped(self.block_colours(job, block, folded), part.shape)
        return colours

    def add_sums(self, sums: Sums, job: Job, blocks: list[Block], folded: Tensors, n: int) -> None:
        """Pass `n` over blocks of one tile; what it finds is added to `sums`."""
        for block in blocks:
            accumulate(sums, self.run(f"statistics_{n}", job, block, {**block.maps(), **folded}))

    def block_colours(self, job: Job, block: Block, folded: Tensors) -> Array:
        """The decoder's output [R · W, 3] for one block."""
        colours: Array = self.run("decoder", job, block, {**block.maps(), **folded})["colour"]
        return colours

    def run(self, graph: str, job: Job, block: Block, feeds: Tensors) -> Tensors:
        """A graph's outputs for one block: `feeds` and the geometry that the graph names."""
        return self.sessions[graph].run({**feeds, **self.geometry(graph, job, block)})

    def geometry(self, graph: str, job: Job, block: Block) -> Tensors:
        """The geometry inputs that a graph names, for one block."""
        return geometry_inputs(self._geometry[graph], block.rows, block.columns, block.tile, job.cell)

    def _maps(self, job: Job, tile: Tile) -> Callable[[], Tensors]:
        return functools.cache(lambda: job.maps(tile, self.sessions["maps"]))


def reshaped(colours: Array, shape: tuple[int, ...]) -> Array:
    """A decoder's output [queries, 3] as [R, W, 3]; BundleError where it has another number of queries."""
    if colours.size != math.prod(shape):
        raise BundleError(
            f"the decoder gave {list(colours.shape)} for {shape[0]}x{shape[1]} queries: export the bundle again"
        )
    return colours.reshape(shape)


def query_parts(job: Job, queries: TileQueries, maps: Callable[[], Tensors]) -> Iterator[tuple[slice, slice, Block]]:
    """Yields rows, columns and the block of every decoder call of a tile."""
    for row, column in query_blocks(queries.rows.count, queries.columns.count, job.plan.query_block):
        ((_, _, block),) = _blocks(queries, [(row, column)], maps)
        yield row, column, block


def _blocks(
    queries: TileQueries, parts: Iterable[tuple[Part, Part]], maps: Callable[[], Tensors]
) -> Iterator[tuple[Part, Part, Block]]:
    for row, column in parts:
        key = _key(queries, row, column)
        yield row, column, Block(queries.tile, queries.rows[row], queries.columns[column], key, maps)


def _key(queries: TileQueries, row: Part, column: Part) -> Key:
    """Names a block of the output picture: first and last row and column, or a sample's first ones and SAMPLED."""
    rows, columns = slice(*queries.whole.rows), slice(*queries.whole.columns)
    if isinstance(row, slice) and isinstance(column, slice):
        row, column = shift(rows, row), shift(columns, column)
        return row.start, row.stop, column.start, column.stop
    return rows.start + _first_of(row), columns.start + _first_of(column), SAMPLED


def _first_of(part: Part) -> int:
    return int(part.start if isinstance(part, slice) else part[0])
