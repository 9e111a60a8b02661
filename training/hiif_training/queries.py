"""Axis tables as torch tensors: what a decoder in training is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.grid import Axis, BitRule, axis_table, relative_cell

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(row tap, column tap) of the four corners, in the published order (−,−), (−,+), (+,−), (+,+)."""


class WithSkip(Protocol):
    """Queries of any decoder whose answer the bilinearly sampled picture is added to."""

    @property
    def skip_index(self) -> Tensor:
        """[B, 4, N] int64: source pixels of the sample."""

    @property
    def skip_weight(self) -> Tensor:
        """[B, 4, N] float32, summing to 1."""


@dataclass(frozen=True)
class Queries:
    """B pictures' queries, N each. Made by `grid_queries` or `scattered_queries`."""

    index: Tensor
    """[B, 4, N] int64: row-major source pixel of each corner."""
    weight: Tensor
    """[B, 4, N] float32: area weights, summing to 1 over the corners (design/model.md C5)."""
    bits: Tensor
    """[B, N, levels, 2] float32 in {0, 1}: row digit, column digit, most significant level first."""
    local: Tensor
    """[B, N, 2] float32 in [0, 1]: (row, column) position relative to corner (−,−)."""
    cell: Tensor
    """[B, 2] float32: size of an output pixel relative to a source pixel, times two."""
    skip_index: Tensor
    """[B, 4, N] int64: source pixels of the bilinear skip, in the same order of corners."""
    skip_weight: Tensor
    """[B, 4, N] float32, summing to 1."""

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Queries:
        """All tensors on `device`; the floating ones as `dtype`."""
        moved = {}
        for field in fields(self):
            tensor: Tensor = getattr(self, field.name)
            moved[field.name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        return Queries(**moved)

    @staticmethod
    def concatenate(parts: Sequence[Queries]) -> Queries:
        """Pictures joined along B."""
        return Queries(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Queries)))


def grid_queries(
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    rows: slice = slice(None),
    levels: int = 6,
    bits: BitRule = "reference",
) -> Queries:
    """Every pixel of a (height, width) `target`, row-major; `rows` keeps some of its rows. B is 1."""
    row_axis, column_axis = _axes(source, target, levels, bits)
    row_axis = row_axis[rows]
    row, column = np.divmod(np.arange(row_axis.count * column_axis.count), column_axis.count)
    return _gather(source, target, row_axis, column_axis, row, column)


def scattered_queries(
    source: tuple[int, int],
    target: tuple[int, int],
    pixels: NDArray[np.int64],
    *,
    levels: int = 6,
    bits: BitRule = "reference",
) -> Queries:
    """The output pixels whose row-major indices are `pixels` [N]. B is 1."""
    row_axis, column_axis = _axes(source, target, levels, bits)
    row, column = np.divmod(pixels, target[1])
    return _gather(source, target, row_axis, column_axis, row, column)


def _axes(source: tuple[int, int], target: tuple[int, int], levels: int, bits: BitRule) -> tuple[Axis, Axis]:
    first, second = (axis_table(n, m, levels=levels, bits=bits) for n, m in zip(source, target, strict=True))
    return first, second


def _gather(
    source: tuple[int, int],
    target: tuple[int, int],
    rows: Axis,
    columns: Axis,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
) -> Queries:
    """One query per (row, column) pair of indices into the two axes."""
    width = source[1]
    taps_y, taps_x = rows.taps[:, row].astype(np.int64), columns.taps[:, column].astype(np.int64)
    skip_y, skip_x = rows.skip_taps[:, row].astype(np.int64), columns.skip_taps[:, column].astype(np.int64)
    fraction_y, fraction_x = rows.skip_weight[row], columns.skip_weight[column]
    weight_y, weight_x = (np.stack([1 - fraction_y, fraction_y]), np.stack([1 - fraction_x, fraction_x]))
    arrays = (
        np.stack([taps_y[a] * width + taps_x[b] for a, b in CORNERS]),
        area_weights(rows.distance[:, row], columns.distance[:, column]),
        np.stack([rows.bits[:, row].T, columns.bits[:, column].T], axis=-1).astype(np.float32),
        np.stack([rows.local[row], columns.local[column]], axis=-1),
        relative_cell(source, target),
        np.stack([skip_y[a] * width + skip_x[b] for a, b in CORNERS]),
        np.stack([weight_y[a] * weight_x[b] for a, b in CORNERS]),
    )
    return Queries(*(torch.from_numpy(np.ascontiguousarray(array))[None] for array in arrays))


def area_weights(distance_y: NDArray[np.float32], distance_x: NDArray[np.float32]) -> NDArray[np.float32]:
    """[4, N] weights from [2, N] distances: each corner weighs the area to the opposite one (C5)."""
    areas = [np.abs(distance_y[a] * distance_x[b]) + np.float32(1e-9) for a, b in CORNERS]
    total = ((areas[0] + areas[1]) + areas[2]) + areas[3]
    return np.stack([area / total for area in reversed(areas)])
