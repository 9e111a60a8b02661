"""CiaoSR's axis tables as torch tensors: the queries of its decoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.geometry.ciaosr_axis import ciaosr_axis
from hiif_training.queries.axis import CORNERS, Queries, TensorFields, scattered_queries


@dataclass(frozen=True)
class CiaosrQueries(TensorFields):
    """Queries of B pictures, N each."""

    nearest: Tensor
    """[B, 1, N] int64: row-major source pixel that holds the query's centre."""
    index: Tensor
    """[B, 4, N] int64: row-major source pixel of each corner."""
    relative: Tensor
    """[B, 4, N, 2] float32: (row, column) of the query − that of the corner, in half source pixels."""
    cell: Tensor
    """[B, 2] float32: size of an output pixel relative to a source pixel, times two."""
    skip_index: Tensor
    """[B, 4, N] int64: source pixels of the bilinear skip."""
    skip_weight: Tensor
    """[B, 4, N] float32, summing to 1."""


def ciaosr_queries(
    source: tuple[int, int], target: tuple[int, int], pixels: NDArray[np.int64] | None = None
) -> CiaosrQueries:
    """Return the queries of the output pixels with row-major indices `pixels` [N]; all of them by default. B is 1."""
    pixels = np.arange(target[0] * target[1]) if pixels is None else pixels
    common: Queries = scattered_queries(source, target, pixels)
    row, column = np.divmod(pixels, target[1])
    rows, columns = (ciaosr_axis(n, m) for n, m in zip(source, target, strict=True))
    y, x = rows.taps[:, row].astype(np.int64), columns.taps[:, column].astype(np.int64)
    relative_y, relative_x = rows.relative[:, row], columns.relative[:, column]
    nearest = rows.nearest[row].astype(np.int64) * source[1] + columns.nearest[column]
    return CiaosrQueries(
        nearest=torch.from_numpy(nearest)[None, None],
        index=torch.from_numpy(np.stack([y[a] * source[1] + x[b] for a, b in CORNERS]))[None],
        relative=torch.from_numpy(
            np.stack([np.stack([relative_y[a], relative_x[b]], axis=-1) for a, b in CORNERS])
        )[None],
        cell=common.cell,
        skip_index=common.skip_index,
        skip_weight=common.skip_weight,
    )  # fmt: skip
