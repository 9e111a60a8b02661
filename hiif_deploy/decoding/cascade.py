"""Decoders in a cascade (CLIT): each reads features four times larger than the one before, and that one's output.

How many run depends on the scale (`clit_axis.stage_sizes`). Features of a later one are sampled for a tile
at a time, so that the large picture of them never exists.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.job import Array, Job, TileQueries, Window
from hiif_deploy.decoding.queries import geometry_inputs, query_axes
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.decoding.session_executor import SessionExecutor, reshaped
from hiif_deploy.geometry.clit_axis import clit_axis, stage_sizes
from hiif_deploy.geometry.grid import relative_cell
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import Tile, query_blocks, source_part


class CascadedExecutor(SessionExecutor):
    """`SessionExecutor` for bundles with several decoders."""

    def tile_colours(self, job: Job, queries: TileQueries, folded: Tensors) -> Array:
        """See `SessionExecutor`; each later decoder is given the output so far."""
        colours = super().tile_colours(job, queries, folded)
        for n, size in enumerate(stage_sizes(job.source, job.size)[: self.contract.decoder.cascade]):
            if n > 0:  # the first decoder has run
                colours = self._refined(job, queries.whole, n, size, colours)
        return colours

    def _refined(self, job: Job, window: Window, n: int, size: Size, before: Array) -> Array:
        """[R, W, 3] of decoder `n`, which reads features of `size` and what the decoder before it gave."""
        rows, columns = query_axes(self.contract, size, job.size, window)
        down, across = slice(0, rows.count), slice(0, columns.count)
        tile = Tile(down, across, source_part(rows, down), source_part(columns, across))
        features = stage_tile(np.asarray(job.features), size, tile, self.contract.decoder.halo)
        maps = self.sessions[f"maps_{n}"].run({"features": features})
        cell, name = relative_cell(size, job.size), f"decoder_{n}"
        colours = np.empty_like(before)
        for row, column in query_blocks(rows.count, columns.count, job.plan.query_block):
            geometry = geometry_inputs(self._geometry[name], rows[row], columns[column], tile, cell)
            given = np.ascontiguousarray(before[row, column]).reshape(-1, 3)
            output = self.sessions[name].run({**maps, **geometry, "before": given})["colour"]
            colours[row, column] = reshaped(output, before[row, column].shape)
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
