"""CLIT's axis tables as torch tensors: the queries of its stages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.geometry.clit_axis import clit_axis, stage_sizes
from hiif_deploy.geometry.grid import relative_cell
from hiif_training.queries.axis import CORNERS, TensorFields, scattered_queries


@dataclass(frozen=True)
class StageQueries(TensorFields):
    """Queries of B pictures to one stage, N each; T = (2·reach + 1)² tokens, row-major around the nearest pixel."""

    size: tuple[int, int]
    """(height, width) of the stage's features."""
    index: Tensor
    """[B, T, N] int64: row-major pixel of the stage's features at each token."""
    inside: Tensor
    """[B, T, N] float32: 1, or 0 for a token beyond the picture, whose key and value are zero."""
    relative: Tensor
    """[B, T, N, 2] float32: (row, column) of the query − that of the token, in half pixels of the stage."""
    query_index: Tensor
    """[B, 4, N] int64: pixels between which the attention query is interpolated."""
    query_weight: Tensor
    """[B, 4, N] float32: their bilinear weights, 0 beyond the picture."""
    cell: Tensor
    """[B, 2] float32: size of an output pixel relative to a pixel of the stage, times two."""


@dataclass(frozen=True)
class ClitQueries(TensorFields):
    """Queries of B pictures to every stage that their scale needs."""

    stages: tuple[StageQueries, ...]
    """Queries per stage, in order, for the same output pixels."""
    skip_index: Tensor
    """[B, 4, N] int64: source pixels of the bilinear skip."""
    skip_weight: Tensor
    """[B, 4, N] float32, summing to 1."""


def clit_queries(
    source: tuple[int, int],
    target: tuple[int, int],
    pixels: NDArray[np.int64] | None = None,
    *,
    stages: int = 1,
    reach: int = 3,
) -> ClitQueries:
    """Return the queries of the output pixels with row-major indices `pixels` [N]; all of them by default. B is 1.

    `stages` is the model's number of stages; those that the scale does not need are left out.
    """
    pixels = np.arange(target[0] * target[1]) if pixels is None else pixels
    common = scattered_queries(source, target, pixels)
    requested = tuple(stage_queries(size, target, pixels, reach) for size in stage_sizes(source, target)[:stages])
    return ClitQueries(requested, common.skip_index, common.skip_weight)


def stage_queries(
    size: tuple[int, int], target: tuple[int, int], pixels: NDArray[np.int64], reach: int
) -> StageQueries:
    """Return the queries of output pixels [N] to one stage whose features have (height, width) `size`."""
    row, column = np.divmod(pixels, target[1])
    rows, columns = (clit_axis(n, m, reach=reach) for n, m in zip(size, target, strict=True))
    tokens = [(a, b) for a in range(2 * reach + 1) for b in range(2 * reach + 1)]

    def pairs(y: NDArray[np.int32], x: NDArray[np.int32], which: list[tuple[int, int]]) -> NDArray[np.int64]:
        """Return the row-major pixels [len(which), N] of (row, column) pairs of taps [T, H] and [T, W]."""
        return np.stack([y[a, row].astype(np.int64) * size[1] + x[b, column] for a, b in which])

    def products(y: NDArray[np.float32], x: NDArray[np.float32], which: list[tuple[int, int]]) -> NDArray[np.float32]:
        """Return the products [len(which), N] of (row, column) pairs of values [T, H] and [T, W]."""
        return np.stack([y[a, row] * x[b, column] for a, b in which])

    corners = list(CORNERS)
    arrays = (
        pairs(rows.tokens, columns.tokens, tokens),
        products(rows.inside, columns.inside, tokens),
        np.stack([np.stack([rows.relative[a, row], columns.relative[b, column]], axis=-1) for a, b in tokens]),
        pairs(rows.taps, columns.taps, corners),
        products(rows.weight, columns.weight, corners),
        relative_cell(size, target),
    )
    return StageQueries(size, *(torch.from_numpy(np.ascontiguousarray(array))[None] for array in arrays))
