"""Which queries a sampled statistics pass asks: some columns of every row, others in each.

A statistics pass averages over all queries, so a part of them estimates it, unless that part keeps meeting the same
phases of the scale. Every row is asked, and in each of its cells the column whose offset is the fractional part of
row · φ₂ + cell · φ₁, with two unrelated badly approximable numbers (a Kronecker lattice): all phases of any scale
are met about equally, in every part of the picture, and the error is a third of that of random columns
(design/decoding.md §5). Nothing is drawn, so every run asks the same queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.sizes import Size

Index = NDArray[np.int64]

GOLDEN = (math.sqrt(5) - 1) / 2
"""Rotation from cell to cell: worst to approximate by fractions, hence far from any scale's phases."""
PLASTIC = 0.7548776662466927
"""Rotation from row to row, of the plastic number: not related to the other."""


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
        columns = min(area, size[1])
        return cls(size, (area // columns, columns))

    def rows(self, part: slice) -> Index:
        """Sampled rows that lie in `part` of the output, ascending."""
        return _within(_places(self.size[0], self.cell[0], 0.0), part)

    def columns(self, row: int, part: slice) -> Index:
        """Sampled columns of a sampled row that lie in `part` of the output, ascending."""
        return _within(_places(self.size[1], self.cell[1], row * PLASTIC), part)

    def count(self, rows: slice, columns: slice) -> int:
        """How many sampled queries lie in that part of the output."""
        return sum(len(self.columns(int(row), columns)) for row in self.rows(rows))


def _places(size: int, cell: int, shift: float) -> Index:
    """One pixel per cell of an axis: cell n's is at the fractional part of shift + n · φ₁."""
    starts = np.arange(0, size, cell)
    widths = np.minimum(cell, size - starts)
    offset = (shift + np.arange(len(starts)) * GOLDEN) % 1
    places: Index = starts + np.floor(offset * widths).astype(np.int64)
    return places


def _within(places: Index, part: slice) -> Index:
    found: Index = places[(places >= part.start) & (places < part.stop)]
    return found
