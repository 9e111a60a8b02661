"""Which queries a sampled statistics pass asks: every row of a coarse grid, its columns shifted row by row.

A statistics pass averages over all queries, so a part of them estimates it, unless that part keeps meeting the same
phases of the scale. Here row i of the coarse grid lies at a golden-ratio offset inside its cell, and so does every
column, with a random shift for each row (a Kronecker sequence with a Cranley-Patterson rotation): all phases are
met equally, and the error falls faster than that of random points (design/decoding.md §5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.sizes import Size

Index = NDArray[np.int64]

GOLDEN = (math.sqrt(5) - 1) / 2
"""Rotation of the rows: worst to approximate by fractions, hence far from any scale's phases."""
PLASTIC = 0.7548776662466927
"""Rotation of the columns, of the plastic number: not related to the other."""
SEED = 20241203
"""The sample is the same in every run, and for every way of cutting the work."""


@dataclass(frozen=True)
class Sampling:
    """Sampled queries of one output size."""

    size: Size
    """(height, width) of the whole output."""
    cell: tuple[int, int]
    """(rows, columns) of output pixels of which one is asked."""

    @classmethod
    def of(cls, size: Size, samples: int) -> Sampling | None:
        """At least `samples` queries, evenly spread; None where the picture has hardly more than that."""
        area = size[0] * size[1] // max(1, samples)
        if area < 2:
            return None
        rows = math.isqrt(area)
        return cls(size, (rows, area // rows))

    def rows(self, part: slice) -> Index:
        """Sampled rows that lie in `part` of the output, ascending."""
        return _within(_places(self.size[0], self.cell[0], 0.0, GOLDEN), part)

    def columns(self, row: int, part: slice) -> Index:
        """Sampled columns of a sampled row that lie in `part` of the output, ascending."""
        shift = np.random.default_rng((SEED, row)).random()
        return _within(_places(self.size[1], self.cell[1], shift, PLASTIC), part)

    def count(self, rows: slice, columns: slice) -> int:
        """How many sampled queries lie in that part of the output."""
        return sum(len(self.columns(int(row), columns)) for row in self.rows(rows))


def _places(size: int, cell: int, shift: float, rotation: float) -> Index:
    """One pixel per cell of an axis: cell n's is at the fractional part of shift + n · rotation."""
    starts = np.arange(0, size, cell)
    widths = np.minimum(cell, size - starts)
    offset = (shift + np.arange(len(starts)) * rotation) % 1
    places: Index = starts + np.floor(offset * widths).astype(np.int64)
    return places


def _within(places: Index, part: slice) -> Index:
    found: Index = places[(places >= part.start) & (places < part.stop)]
    return found
