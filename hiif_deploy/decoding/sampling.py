"""Which queries a sampled statistics pass evaluates: some columns of every row, other columns in each row.

A statistics pass averages over all queries, so a sample of them estimates it, provided the sampling does not alias with
the scale. Every row is sampled, and in each of its cells the column at the fractional part of 2 · row / 5 + cell · φ:
along a row a badly approximable rotation, from row to row the lattice of five points. All phases of any scale occur
about equally often, in every part of the picture (design/decoding.md §5). Every fifth row has the same columns, so a
tile's sample is five grids, each one call. Nothing is random: every run takes the same sample.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.session import REDUCED_PRECISIONS, ComputePrecision
from hiif_deploy.geometry.sizes import Size

Index = NDArray[np.int64]

GOLDEN = (math.sqrt(5) - 1) / 2
"""Rotation from cell to cell: worst to approximate by fractions, hence far from any scale's phases."""
PERIOD, STEP = 5, 2
"""Rows after which the same columns are sampled, and the rotation from row to row, in PERIODths of a cell."""
MIN_SAMPLES, SHARE = 20_480, 16
"""Least number of samples, and queries per sample, that keep 80 dB from exact (design/decoding.md §5)."""


def enough(size: Size, precision: ComputePrecision) -> int:
    """Default number of samples for an output of (height, width).

    Half as many, some 75 dB from exact, in precisions that are 60 to 73 dB off themselves.
    """
    found = max(MIN_SAMPLES, size[0] * size[1] // SHARE)
    return found // 2 if precision in REDUCED_PRECISIONS else found


@dataclass(frozen=True)
class Sampling:
    """Sampled queries of one output size."""

    size: Size
    """(height, width) of the whole output."""
    stride: tuple[int, int]
    """(rows, columns) of output pixels of which one is sampled."""

    @classmethod
    def of(cls, size: Size, samples: int) -> Self | None:
        """At least `samples` queries, evenly spread; None where the picture has hardly more than that."""
        area = size[0] * size[1] // max(1, samples)
        if area < 2:
            return None
        columns = min(area, size[1])
        return cls(size, (area // columns, columns))

    def rows(self, part: slice) -> Index:
        """Sampled rows that lie in `part` of the output, ascending."""
        return _within(_places(self.size[0], self.stride[0], 0.0), part)

    def columns(self, row: int, part: slice) -> Index:
        """Sampled columns of a sampled row that lie in `part` of the output, ascending."""
        shift = STEP * self._turn(row) % PERIOD / PERIOD
        return _within(_places(self.size[1], self.stride[1], shift), part)

    def grids(self, rows: slice, columns: slice) -> Iterator[tuple[Index, Index]]:
        """The sample of a part of the output as grids: some rows and the columns that are sampled in each of them."""
        sampled = self.rows(rows)
        turns = self._turn(sampled)
        for turn in np.unique(turns):
            some = sampled[turns == turn]
            found = self.columns(int(some[0]), columns)
            if len(found):
                yield some, found

    def count(self, rows: slice, columns: slice) -> int:
        """How many sampled queries lie in that part of the output."""
        return sum(len(some) * len(found) for some, found in self.grids(rows, columns))

    def _turn(self, row: Any) -> Any:
        return row // self.stride[0] % PERIOD


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
