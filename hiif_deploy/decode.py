"""Features → colours: statistics passes, folding, decode pass, over tiles and blocks of queries.

Decoders whose queries are coupled (linear attention averages KᵀV over all of them) are asked in passes: each
statistics pass sums over every query, then a fold graph turns the sums into tensors for the next passes. So the
answer does not depend on how the queries are cut (design/decoding.md §2).
"""

from __future__ import annotations

import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.axes import AXES
from hiif_deploy.carry import Carry, Key
from hiif_deploy.contract import Contract
from hiif_deploy.errors import BundleError
from hiif_deploy.grid import Axis, AxisRule, BitRule, WeightedAxis
from hiif_deploy.plan import Plan, Tile, decoder_tiles, length, query_blocks, shift, steps
from hiif_deploy.sampling import Index, Sampling
from hiif_deploy.session import Session, Tensors
from hiif_deploy.sizes import Size

Array = NDArray[np.float32]
Advance = Callable[[int], None]
Sums = dict[str, NDArray[np.float64]]
"""What a statistics pass adds up, by name."""
Part = slice | Index
"""Rows or columns of a tile: all of a range, or those that are sampled."""
TABLES = 16
"""Axis tables kept: those of both axes of some sizes."""
SAMPLED = -1
"""In a block's key: its columns are a sample."""


@dataclass(frozen=True)
class Window:
    """A rectangle of the output picture."""

    rows: tuple[int, int]
    """First and one past the last output row."""
    columns: tuple[int, int]
    """First and one past the last output column."""

    @property
    def shape(self) -> Size:
        """(height, width)."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


@dataclass(frozen=True)
class Statistics:
    """What the statistics passes found out about the queries of one output picture (or group of rows)."""

    folded: Tensors
    """Inputs of later graphs by name; empty for uncoupled decoders."""


@dataclass(frozen=True)
class Block:
    """Queries of one decoder call: all of some rows × some columns of a tile."""

    tile: Tile
    """Where their source pixels lie."""
    rows: Axis
    """Rows asked."""
    columns: Axis
    """Columns asked."""
    key: Key
    """Names these queries among all of the output picture."""
    maps: Callable[[], Tensors]
    """Maps of the tile; computed when first called, once for all of its blocks."""

    @property
    def is_sample(self) -> bool:
        """Whether only statistics passes ask these queries, together."""
        return self.key[-1] == SAMPLED


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


class Job:
    """One picture's features and one output size: what every pass over its queries shares."""

    def __init__(
        self, contract: Contract, features: Any, image: Array, size: Size, plan: Plan, cell: Array,
        sampling: Sampling | None = None,
    ) -> None:  # fmt: skip
        self.contract = contract
        self.features = features
        """[C, h, w], as the backend's encoder gave it."""
        self.image = image
        """Unit picture [h, w, 3], for the skip."""
        self.size = size
        self.plan = plan
        self.cell = cell
        """[2], what the decoder is told of the output pixels' size."""
        self.sampling = sampling
        """Which queries statistics passes ask; None: all, which is exact."""
        self.carry = Carry(plan.carry_bytes)
        """States of queries, from pass to pass."""
        self._cache: dict[tuple[int, int, int, int], Tensors] = {}
        self._cached_bytes = 0
        self._lock = threading.Lock()

    @property
    def source(self) -> Size:
        """(height, width) of the features."""
        return self.features.shape[1], self.features.shape[2]

    def asked(self, window: Window, tile: Tile) -> Iterator[list[tuple[Part, Part]]]:
        """Parts (rows, columns) of a tile's queries that statistics passes ask, each list about a block of them."""
        if self.sampling is None:
            height, width = length(tile.rows), length(tile.columns)
            for block in query_blocks(height, width, self.plan.query_block):
                yield [block]
            return
        rows, columns = _absolute(window, tile)
        parts: list[tuple[Part, Part]] = []
        count = 0
        for some, found in self.sampling.grids(rows, columns):
            for part in steps(len(some), max(1, self.plan.query_block // len(found))):
                size = length(part) * len(found)
                if parts and count + size > self.plan.query_block:
                    yield parts
                    parts, count = [], 0
                parts.append((some[part] - rows.start, found - columns.start))
                count += size
        if parts:
            yield parts

    def count(self, window: Window) -> int:
        """How many queries of `window` statistics passes ask."""
        if self.sampling is None:
            return window.shape[0] * window.shape[1]
        return self.sampling.count(slice(*window.rows), slice(*window.columns))

    def maps(self, tile: Tile, session: Session) -> Tensors:
        """Maps of the tile's source pixels."""
        return self.kept_maps(tile, lambda: session.run({"features": self._with_halo(tile)}))

    def kept_maps(self, tile: Tile, make: Callable[[], Tensors]) -> Tensors:
        """What `make` gives for the tile, kept between passes as far as the plan's cache reaches."""
        if tile.key in self._cache:
            return self._cache[tile.key]
        maps = make()
        size = sum(array.nbytes for array in maps.values())
        with self._lock:
            # Two threads may have computed the same maps; only one of them is counted.
            if tile.key not in self._cache and self._cached_bytes + size <= self.plan.cache_bytes:
                self._cache[tile.key] = maps
                self._cached_bytes += size
        return maps

    def _with_halo(self, tile: Tile) -> Array:
        """[1, C, b + 2·halo, w + 2·halo]; zero outside the picture, as the convolution pads."""
        halo = self.contract.decoder.halo
        height, width = self.source
        top, bottom = tile.source_rows.start - halo, tile.source_rows.stop + halo
        left, right = tile.source_columns.start - halo, tile.source_columns.stop + halo
        inside = self.features[:, max(top, 0) : bottom, max(left, 0) : right]
        margins = ((0, 0), (max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)))
        return np.pad(inside, margins)[None]


def query_axes(contract: Contract, source: Size, target: Size, window: Window) -> tuple[Axis, Axis]:
    """Row and column tables of a window of the output, as the contract's decoder wants them."""
    decoder = contract.decoder
    rows, columns = (
        _axis(decoder.axes, *sizes, decoder.levels, decoder.bits)
        for sizes in zip(source, target, (window.rows, window.columns), strict=True)
    )
    return rows, columns


@functools.lru_cache(maxsize=TABLES)
def _axis(rule: AxisRule, source: int, target: int, window: tuple[int, int], levels: int, bits: BitRule) -> Axis:
    """Every frame of a clip has the same tables. They are shared, and only read."""
    return AXES[rule](source, target, window, levels=levels, bits=bits)


def fold(session: Session, sums: Sums, count: int) -> dict[str, NDArray[Any]]:
    """Sums over `count` queries → inputs of the next passes."""
    return session.run({**sums, "count": np.array([count], dtype=np.float64)})


def _blocks(
    window: Window, tile: Tile, rows: Axis, columns: Axis, parts: Iterable[tuple[Part, Part]],
    maps: Callable[[], Tensors],
) -> Iterator[tuple[Part, Part, Block]]:  # fmt: skip
    for row, column in parts:
        yield row, column, Block(tile, rows[row], columns[column], _key(window, tile, row, column), maps)


def _absolute(window: Window, tile: Tile) -> tuple[slice, slice]:
    """Rows and columns of the output picture that a tile of a window covers."""
    return shift(slice(*window.rows), tile.rows), shift(slice(*window.columns), tile.columns)


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


def geometry_inputs(names: list[str], rows: Axis, columns: Axis, tile: Tile, cell: Array) -> Tensors:
    """The geometry inputs that a graph asks for, shaped [·, R, 1] and [·, 1, W]; taps index the tile's maps."""
    width = tile.source_columns.stop - tile.source_columns.start
    tables: dict[str, Callable[[], NDArray[Any]]] = {
        "row_tap": lambda: ((rows.taps - tile.source_rows.start) * width)[:, :, None],
        "column_tap": lambda: (columns.taps - tile.source_columns.start)[:, None, :],
        "row_relative": lambda: rows.relative[:, :, None],
        "column_relative": lambda: columns.relative[:, None, :],
        "row_distance": lambda: rows.distance[:, :, None],
        "column_distance": lambda: columns.distance[:, None, :],
        "row_bits": lambda: rows.bits[:, :, None],
        "column_bits": lambda: columns.bits[:, None, :],
        "row_local": lambda: rows.local[None, :, None],
        "column_local": lambda: columns.local[None, None, :],
        "row_weight": lambda: _tap_weights(rows)[:, :, None],
        "column_weight": lambda: _tap_weights(columns)[:, None, :],
        "cell": lambda: cell,
    }
    return {name: tables[name]() for name in names}


def _tap_weights(axis: Axis) -> Array:
    if not isinstance(axis, WeightedAxis):
        raise BundleError("the decoder wants weights of its taps, and the contract's axes have none: export it again")
    return axis.weight


def finish(contract: Contract, colours: Array, image: Array, rows: Axis, columns: Axis) -> Array:
    """Decoder answers [R, W, 3] → de-normalised colours, the skip added (in place). Nothing is clamped."""
    colours *= np.array(contract.normalisation.std, dtype=np.float32)
    if contract.decoder.skip == "bilinear":
        colours += bilinear(image, rows, columns)
    else:
        colours += np.array(contract.normalisation.mean, dtype=np.float32)
    return colours


def bilinear(image: Array, rows: Axis, columns: Axis) -> Array:
    """Half-pixel bilinear sample [R, W, 3] of a picture [h, w, 3], the border replicated."""
    first, last = int(columns.skip_taps.min()), int(columns.skip_taps.max()) + 1
    upper, lower = image[rows.skip_taps[0], first:last], image[rows.skip_taps[1], first:last]
    lines = upper + (lower - upper) * rows.skip_weight[:, None, None]
    left, right = lines[:, columns.skip_taps[0] - first], lines[:, columns.skip_taps[1] - first]
    sample: Array = left + (right - left) * columns.skip_weight[None, :, None]
    return sample
