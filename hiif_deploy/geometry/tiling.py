"""Splits an output window into tiles and query blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from hiif_deploy.geometry.grid import Axis


@dataclass(frozen=True)
class Tile:
    """A rectangle of queries and the rectangle of source pixels that holds all their taps."""

    rows: slice
    """Rows of the axis table."""
    columns: slice
    """Columns of the axis table."""
    source_rows: slice
    """Rows of the features that the queries read."""
    source_columns: slice
    """Columns of the features that the queries read."""

    @property
    def key(self) -> tuple[int, int, int, int]:
        """Identifies the maps that this tile needs."""
        return (self.source_rows.start, self.source_rows.stop, self.source_columns.start, self.source_columns.stop)


def decoder_tiles(rows: Axis, columns: Axis, cell: tuple[int, int], most: int) -> list[Tile]:
    """Cut the queries so that each tile's lower taps fall into one cell of a grid of `cell` source pixels (rows,
    columns), and it holds at most `most` queries."""
    return [
        Tile(shift(row, part_rows), shift(column, part_columns), source_part(rows, row), source_part(columns, column))
        for row in _runs(rows, cell[0])
        for column in _runs(columns, cell[1])
        for part_rows, part_columns in query_blocks(row.stop - row.start, column.stop - column.start, most)
    ]


def query_blocks(rows: int, columns: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Split rows × columns queries into blocks of at most `most`, whole rows where they fit."""
    width = min(columns, most)
    yield from rectangles(rows, columns, (max(1, most // width), width))


def rectangles(rows: int, columns: int, most: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Split rows × columns into rectangles of at most `most` rows and columns, row by row."""
    for row in steps(rows, most[0]):
        for column in steps(columns, most[1]):
            yield row, column


def steps(size: int, step: int) -> list[slice]:
    """Split 0:size into parts of at most `step`."""
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _runs(axis: Axis, size: int) -> list[slice]:
    cells = axis.taps[0] // size
    edges = [0, *(int(n) + 1 for n in (cells[1:] != cells[:-1]).nonzero()[0]), axis.count]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def shift(whole: slice, part: slice) -> slice:
    """Return a part that is counted from the beginning of `whole`, counted as `whole` is."""
    return slice(whole.start + part.start, whole.start + part.stop)


def within(part: slice, whole: slice) -> slice:
    """Return a part that is counted as `whole` is, counted from the beginning of `whole`."""
    return slice(part.start - whole.start, part.stop - whole.start)


def length(part: slice) -> int:
    """Return the number of rows or columns in a slice with both ends."""
    return int(part.stop - part.start)


def source_part(axis: Axis, part: slice) -> slice:
    """Return the source pixels between the outermost taps of a part of an axis."""
    taps = axis.taps[:, part]
    return slice(int(taps.min()), int(taps.max()) + 1)
