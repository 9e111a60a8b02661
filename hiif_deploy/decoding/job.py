"""One picture at one output size: what every decoding pass over its queries shares."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.sampling import Index, Sampling
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.state_cache import StateCache
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import Tile, length, query_blocks, shift, steps, within
from hiif_deploy.pixels import Frame

Array = NDArray[np.float32]
Advance = Callable[[int], None]


def ignore(_: int) -> None:
    """Where nobody reads the progress."""


Sums = dict[str, NDArray[np.float64]]
"""What a statistics pass adds up, by name."""
Part = slice | Index
"""Rows or columns of a tile: all of a range, or those that are sampled."""
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
        """Height and width in pixels."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def within(self, outer: Self) -> tuple[slice, slice]:
        """Rows and columns counted from the first of `outer`."""
        return within(slice(*self.rows), slice(*outer.rows)), within(slice(*self.columns), slice(*outer.columns))


@dataclass(frozen=True)
class Statistics:
    """Result of all statistics passes over one output picture (or group of rows)."""

    folded: Tensors
    """Inputs of later graphs by name; empty for uncoupled decoders."""


@dataclass(frozen=True)
class TileQueries:
    """All queries of one tile of a window."""

    window: Window
    """Window that the tile is a part of."""
    tile: Tile
    """Where the queries and their source pixels lie."""
    rows: Axis
    """Axis table of the tile's rows."""
    columns: Axis
    """Axis table of the tile's columns."""

    def part(self, rows: slice, columns: slice) -> Window:
        """Rows and columns of the tile as a window of the whole output."""
        down = shift(shift(slice(*self.window.rows), self.tile.rows), rows)
        across = shift(shift(slice(*self.window.columns), self.tile.columns), columns)
        return Window((down.start, down.stop), (across.start, across.stop))

    @property
    def whole(self) -> Window:
        """All of them, as a window of the whole output."""
        return self.part(slice(0, self.rows.count), slice(0, self.columns.count))


class Job:
    """One picture's features and one output size: what every pass over its queries shares."""

    def __init__(
        self, contract: Contract, features: Any, frame: Frame, size: Size, plan: Plan, cell: Array,
        sampling: Sampling | None = None, *, advance: Advance = ignore, clamps: bool = True,
    ) -> None:  # fmt: skip
        self.contract = contract
        self.features = features
        """[C, h, w], as the backend's encoder gave it."""
        self.frame = frame
        """[h, w, 1 or 3] uint8, uint16 or float32, which the skip reads; what is decoded has its type and channels."""
        self.size = size
        self.plan = plan
        self.cell = cell
        """[2] float32, LIIF's cell: size of an output pixel, as the decoder reads it."""
        self.sampling = sampling
        """Which queries the statistics passes evaluate; None: all, which is exact."""
        self.advance = advance
        """Called with the number of finished steps."""
        self.clamps = clamps
        """Whether colours are clamped to [0, 1]; not so only for float32 frames of three channels."""
        self.state_cache = StateCache(plan.state_cache_bytes)
        """Hidden states of queries, kept from one pass for the next."""
        self._cache: dict[tuple[int, int, int, int], Tensors] = {}
        self._cached_bytes = 0
        self._lock = threading.Lock()

    @property
    def source(self) -> Size:
        """(height, width) of the features."""
        return self.features.shape[1], self.features.shape[2]

    def statistics_blocks(self, queries: TileQueries) -> Iterator[list[tuple[Part, Part]]]:
        """Parts (rows, columns) of a tile's queries that statistics passes need, each list about a block of them."""
        if self.sampling is None:
            for block in query_blocks(queries.rows.count, queries.columns.count, self.plan.query_block):
                yield [block]
            return
        rows, columns = slice(*queries.whole.rows), slice(*queries.whole.columns)
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
        """How many queries of `window` statistics passes need."""
        if self.sampling is None:
            return window.shape[0] * window.shape[1]
        return self.sampling.count(slice(*window.rows), slice(*window.columns))

    def maps(self, tile: Tile, session: Session) -> Tensors:
        """Maps of the tile's source pixels."""
        return self.kept_maps(tile, lambda: session.run({"features": self.with_halo(tile)}))

    def kept_maps(self, tile: Tile, make: Callable[[], Tensors]) -> Tensors:
        """Maps of the tile, computed by `make` and cached between passes within the plan's `cache_bytes`."""
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

    def with_halo(self, tile: Tile, *, channels_last: bool = False) -> Array:
        """[1, C, b + 2·halo, w + 2·halo]; zero outside the picture, as the convolution pads. With `channels_last` the
        channels of a pixel are contiguous."""
        halo = self.contract.decoder.halo
        top, bottom = tile.source_rows.start - halo, tile.source_rows.stop + halo
        left, right = tile.source_columns.start - halo, tile.source_columns.stop + halo
        inside = self.features[:, max(top, 0) : bottom, max(left, 0) : right]
        (channels, rows, columns), above, before = inside.shape, max(-top, 0), max(-left, 0)
        # np.pad takes longer than a small decoder does for the tile.
        if channels_last:
            whole = np.zeros((bottom - top, right - left, channels), inside.dtype).transpose(2, 0, 1)
        else:
            whole = np.zeros((channels, bottom - top, right - left), inside.dtype)
        whole[:, above : above + rows, before : before + columns] = inside
        return whole[None]
