"""Axis tables as torch tensors: the queries of a decoder in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.geometry.axes import AXES
from hiif_deploy.geometry.grid import Axis, AxisRule, BitRule, relative_cell

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(row tap, column tap) of the four corners, in the published order (−,−), (−,+), (+,−), (+,+)."""


class WithSkip(Protocol):
    """Queries of any decoder to whose output the bilinearly sampled picture is added."""

    @property
    def skip_index(self) -> Tensor:
        """[B, 4, N] int64: source pixels of the sample."""

    @property
    def skip_weight(self) -> Tensor:
        """[B, 4, N] float32, summing to 1."""


class TensorFields:
    """Base of queries: frozen dataclasses of tensors, of nested objects of this kind, and of tuples of them."""

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return a copy with all tensors on `device` and the floating ones as `dtype`."""
        return type(self)(**{name: moved(value, device, dtype) for name, value in vars(self).items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the queries of several pictures along B."""
        return cls(**{name: joined_fields([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def moved(value: Any, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Any:
    """Return tensors, queries and tuples of them on `device`, floating ones as `dtype`; other values as they are."""
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, TensorFields):
        return value.to(device, dtype)
    return tuple(moved(entry, device, dtype) for entry in value) if isinstance(value, tuple) else value


def joined_fields(values: list[Any]) -> Any:
    """Join one field of several objects along B; the first one's value where it is no tensor."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, TensorFields):
        return type(first).concatenate(values)
    if isinstance(first, tuple):
        return tuple(joined_fields(list(entries)) for entries in zip(*values, strict=True))
    return first


class QueryMaker(Protocol):
    """Makes the queries of some, or all, pixels of an output picture."""

    def __call__(
        self, source: tuple[int, int], target: tuple[int, int], pixels: NDArray[np.int64] | None = None
    ) -> Any:
        """Return the queries of `pixels`, row-major indices [N] (None: all); B is 1.

        `source` and `target` are (height, width) of the features and of the output.
        """
        ...


@dataclass(frozen=True)
class Queries(TensorFields):
    """Queries of B pictures, N each, K taps per query: four corners, or one pixel."""

    index: Tensor
    """[B, K, N] int64: row-major source pixel of each tap."""
    relative: Tensor
    """[B, K, N, 2] float32: (row, column) of the query − that of the tap, in half source pixels."""
    weight: Tensor
    """[B, K, N] float32: area weights, summing to 1 over the corners (design/model.md C5); 1 for a single tap."""
    bits: Tensor
    """[B, N, levels, 2] float32 in {0, 1}: row digit, column digit, most significant level first."""
    local: Tensor
    """[B, N, 2] float32 in [0, 1]: (row, column) position relative to corner (−,−)."""
    cell: Tensor
    """[B, 2] float32: size of an output pixel relative to a source pixel, times two."""
    skip_index: Tensor
    """[B, 4, N] int64: source pixels of the bilinear skip, in the order of `CORNERS`."""
    skip_weight: Tensor
    """[B, 4, N] float32, summing to 1."""


def axis_queries(
    source: tuple[int, int],
    target: tuple[int, int],
    pixels: NDArray[np.int64] | None = None,
    *,
    axes: AxisRule = "corners",
    levels: int = 0,
    bits: BitRule = "exact",
) -> Queries:
    """`QueryMaker` for every decoder whose taps are a row's times a column's (`hiif_deploy.geometry.axes`).

    `pixels` are row-major indices [N] of output pixels; None for all. B is 1.
    """
    pixels = np.arange(target[0] * target[1]) if pixels is None else pixels
    row_axis, column_axis = _axes(source, target, axes, levels, bits)
    row, column = np.divmod(pixels, target[1])
    return _gather(source, target, row_axis, column_axis, row, column)


def grid_queries(
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    rows: slice = slice(None),
    levels: int = 6,
    bits: BitRule = "reference",
) -> Queries:
    """Return the queries of every pixel of a (height, width) `target`, row-major; `rows` selects some of its rows. B is
    1."""
    start, stop, _ = rows.indices(target[0])
    return axis_queries(source, target, np.arange(start * target[1], stop * target[1]), levels=levels, bits=bits)


def scattered_queries(
    source: tuple[int, int],
    target: tuple[int, int],
    pixels: NDArray[np.int64],
    *,
    levels: int = 6,
    bits: BitRule = "reference",
) -> Queries:
    """Return the queries of the output pixels with row-major indices `pixels` [N]. B is 1."""
    return axis_queries(source, target, pixels, levels=levels, bits=bits)


def _axes(
    source: tuple[int, int], target: tuple[int, int], axes: AxisRule, levels: int, bits: BitRule
) -> tuple[Axis, Axis]:
    first, second = (AXES[axes](n, m, levels=levels, bits=bits) for n, m in zip(source, target, strict=True))
    return first, second


def _gather(
    source: tuple[int, int],
    target: tuple[int, int],
    rows: Axis,
    columns: Axis,
    row: NDArray[np.int64],
    column: NDArray[np.int64],
) -> Queries:
    """Return one query per (row, column) pair of indices into the two axes."""
    width = source[1]
    taps_y, taps_x = rows.taps[:, row].astype(np.int64), columns.taps[:, column].astype(np.int64)
    skip_y, skip_x = rows.skip_taps[:, row].astype(np.int64), columns.skip_taps[:, column].astype(np.int64)
    fraction_y, fraction_x = rows.skip_weight[row], columns.skip_weight[column]
    weight_y, weight_x = (np.stack([1 - fraction_y, fraction_y]), np.stack([1 - fraction_x, fraction_x]))
    pairs = CORNERS if len(taps_y) == 2 else ((0, 0),)
    relative_y, relative_x = rows.relative[:, row], columns.relative[:, column]
    distance_y, distance_x = rows.distance[:, row], columns.distance[:, column]
    arrays = {
        "index": np.stack([taps_y[a] * width + taps_x[b] for a, b in pairs]),
        "relative": np.stack([np.stack([relative_y[a], relative_x[b]], axis=-1) for a, b in pairs]),
        "weight": area_weights(distance_y, distance_x) if pairs is CORNERS else np.ones_like(distance_y),
        "bits": np.stack([rows.bits[:, row].T, columns.bits[:, column].T], axis=-1).astype(np.float32),
        "local": np.stack([rows.local[row], columns.local[column]], axis=-1),
        "cell": relative_cell(source, target),
        "skip_index": np.stack([skip_y[a] * width + skip_x[b] for a, b in CORNERS]),
        "skip_weight": np.stack([weight_y[a] * weight_x[b] for a, b in CORNERS]),
    }
    return Queries(**{name: torch.from_numpy(np.ascontiguousarray(array))[None] for name, array in arrays.items()})


def area_weights(distance_y: NDArray[np.float32], distance_x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return weights [4, N] from distances [2, N]: each corner is weighted by the area of the opposite one (C5)."""
    areas = [np.abs(distance_y[a] * distance_x[b]) + np.float32(1e-9) for a, b in CORNERS]
    total = ((areas[0] + areas[1]) + areas[2]) + areas[3]
    return np.stack([area / total for area in reversed(areas)])
