"""Features of a part of a picture: encoded in cells, so that a tile of a large picture needs little of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.host import HostBackend
from hiif_deploy.decoding.encode import widen
from hiif_deploy.geometry.sizes import Region, Size
from hiif_deploy.geometry.tiling import within
from hiif_deploy.upscaler import Upscaler

CELL = 256
"""Source pixels of a cell's sides: a tile of 512 at ×2 needs one."""
REACH = 4
"""Source pixels around a part that its queries and the maps' halo may read."""

Cell = tuple[int, int]
"""Row and column of a cell in the grid of cells."""


@dataclass(frozen=True)
class FeatureWindow:
    """Features [C, h, w] of which some cells are there; read as an array by slices that lie in them."""

    shape: tuple[int, int, int]
    cells: Mapping[Cell, NDArray[np.float32]]
    dtype = np.dtype(np.float32)

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """Return a copy of a part, [C, rows, columns]. KeyError where it lies in a cell that is not there."""
        rows, columns = (slice(*part.indices(size)[:2]) for part, size in zip(key[1:], self.shape[1:], strict=True))
        part = np.empty((self.shape[0], rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        for cell in cells_of(rows, columns):
            inside = [
                slice(max(whole.start, own.start), min(whole.stop, own.stop))
                for whole, own in zip((rows, columns), cell_pixels(cell, self.shape[1:]), strict=True)
            ]
            into = within(inside[0], rows), within(inside[1], columns)
            own_rows, own_columns = cell_pixels(cell, self.shape[1:])
            from_ = within(inside[0], own_rows), within(inside[1], own_columns)
            part[:, *into] = self.cells[cell][:, *from_]
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all features, where all cells are there."""
        del copy
        return np.asarray(self[:, :, :], dtype)


def has_local_features(upscaler: Upscaler) -> bool:
    """Return whether a part of a picture needs features of that part alone, and the engine reads them from the host.

    Not so with statistics over the whole picture, or with an encoder that sees all of it.
    """
    encoder, decoder = upscaler.contract.encoder, upscaler.contract.decoder
    is_local = encoder.receptive_field is not None and encoder.size_multiple == 1 and encoder.tile is None
    is_plain = decoder.statistics_passes == 0 and decoder.cascade == 1 and decoder.axes == "corners"
    return is_local and is_plain and isinstance(upscaler.backend, HostBackend)


def needed_cells(source: Size, level: Size, region: Region) -> list[Cell]:
    """Return the cells that `region` of the picture at `level` reads."""
    rows, columns = (
        widen(slice(start * size // whole, -(-(start + count) * size // whole)), REACH, size)
        for start, count, size, whole in zip(region[:2], region[2:], source, level, strict=True)
    )
    return cells_of(rows, columns)


def cells_of(rows: slice, columns: slice) -> list[Cell]:
    """Return the cells that some rows and columns of a picture lie in."""
    down, across = (range(part.start // CELL, -(-part.stop // CELL)) for part in (rows, columns))
    return [(row, column) for row in down for column in across]


def cell_pixels(cell: Cell, size: Iterable[int]) -> tuple[slice, slice]:
    """Return the rows and columns of a picture of (height, width) that a cell holds."""
    rows, columns = (slice(n * CELL, min((n + 1) * CELL, length)) for n, length in zip(cell, size, strict=True))
    return rows, columns


def encode_cell(upscaler: Upscaler, pixels: NDArray[Any], cell: Cell, advance: Any) -> NDArray[np.float32]:
    """Return a cell's features [C, rows, columns], as in those of the whole picture [H, W] or [H, W, 3]."""
    field = upscaler.contract.encoder.receptive_field
    assert field is not None
    size = pixels.shape[0], pixels.shape[1]
    own = cell_pixels(cell, size)
    seen = widen(own[0], field, size[0]), widen(own[1], field, size[1])
    encoded = np.asarray(upscaler.encode(pixels[seen], advance=advance).encoded)
    return np.ascontiguousarray(encoded[:, within(own[0], seen[0]), within(own[1], seen[1])], np.float32)
