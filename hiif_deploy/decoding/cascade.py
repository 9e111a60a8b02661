"""Decoders that answer in turn: each reads features four times larger than the one before, and what that one said.

How many are asked depends on the enlargement (`clit_axis.stage_sizes`). Features of a later one are sampled for a tile
at a time, so that the large picture of them never exists.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.decoder import Decoder, reshaped
from hiif_deploy.decoding.job import Array, Job, Statistics, Window
from hiif_deploy.decoding.queries import geometry_inputs, query_axes
from hiif_deploy.geometry.clit_axis import clit_axis, stage_sizes
from hiif_deploy.geometry.grid import Axis, relative_cell
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import Tile, query_blocks, shift


class CascadedDecoder(Decoder):
    """`Decoder` for bundles with several."""

    def tile_colours(
        self, job: Job, window: Window, tile: Tile, rows: Axis, columns: Axis, statistics: Statistics
    ) -> Array:
        """See `Decoder`; each later decoder is given the answers so far."""
        colours = super().tile_colours(job, window, tile, rows, columns, statistics)
        asked = Window(_absolute(window.rows, tile.rows), _absolute(window.columns, tile.columns))
        for n, size in enumerate(stage_sizes(job.source, job.size)[: self.contract.decoder.cascade]):
            if n > 0:
                colours = self._answer(job, asked, n, size, colours)
        return colours

    def _answer(self, job: Job, asked: Window, n: int, size: Size, before: Array) -> Array:
        """[R, W, 3] of decoder `n`, which reads features of `size`."""
        rows, columns = query_axes(self.contract, size, job.size, asked)
        tile = Tile(slice(0, rows.count), slice(0, columns.count), _taps(rows), _taps(columns))
        features = stage_tile(np.asarray(job.features), size, tile, self.contract.decoder.halo)
        maps = self.sessions[f"maps_{n}"].run({"features": features})
        cell, name = relative_cell(size, job.size), f"decoder_{n}"
        colours = np.empty_like(before)
        for row, column in query_blocks(rows.count, columns.count, job.plan.query_block):
            geometry = geometry_inputs(self._names[name], rows[row], columns[column], tile, cell)
            given = np.ascontiguousarray(before[row, column]).reshape(-1, 3)
            answer = self.sessions[name].run({**maps, **geometry, "before": given})["colour"]
            colours[row, column] = reshaped(answer, before[row, column].shape)
        return colours


def stage_tile(features: NDArray[Any], size: Size, tile: Tile, halo: int) -> NDArray[Any]:
    """[C, h, w] → [1, C, b + 2·halo, w + 2·halo]: a tile of the features enlarged to `size`, zero beyond the picture.

    Bilinear between pixel centres, falling to zero beyond the outer ones.
    """
    margins = [(0, 0)]
    for axis, part in enumerate((tile.source_rows, tile.source_columns)):
        start, stop = part.start - halo, part.stop + halo
        inside = max(start, 0), min(stop, size[axis])
        table = clit_axis(features.shape[axis + 1], size[axis], inside, reach=0)
        shape = (-1, 1) if axis == 0 else (-1,)
        lower, upper = (
            features.take(table.taps[k], axis + 1) * table.weight[k].reshape(shape).astype(features.dtype)
            for k in (0, 1)
        )
        features = lower + upper
        margins.append((inside[0] - start, stop - inside[1]))
    return np.pad(features, margins)[None]


def _absolute(window: tuple[int, int], part: slice) -> tuple[int, int]:
    """First and one past the last output pixel of a part of a window."""
    moved = shift(slice(*window), part)
    return moved.start, moved.stop


def _taps(axis: Axis) -> slice:
    return slice(int(axis.taps.min()), int(axis.taps.max()) + 1)
