"""One picture at one output size: what every decoding pass over its queries shares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.sampling import Index, Sampling
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.state_cache import Carry, Key
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import Tile, length, query_blocks, shift, steps

Array = NDArray[np.float32]
Advance = Callable[[int], None]
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


def _absolute(window: Window, tile: Tile) -> tuple[slice, slice]:
    """Rows and columns of the output picture that a tile of a window covers."""
    return shift(slice(*window.rows), tile.rows), shift(slice(*window.columns), tile.columns)
