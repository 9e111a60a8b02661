"""Sampled queries of a tile as one list: on a GPU a call per sampled row would be thousands of small ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.job import Job, TileQueries
from hiif_deploy.decoding.queries import geometry_inputs
from hiif_deploy.decoding.sampling import Index
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.geometry.tiling import Tile


def sampled_queries(job: Job, queries: TileQueries) -> tuple[Index, Index]:
    """Row and column of every query of the tile that statistics passes need, counted from the tile's first."""
    assert job.sampling is not None
    rows, columns = slice(*queries.whole.rows), slice(*queries.whole.columns)
    sampled = job.sampling.rows(rows)
    found = [job.sampling.columns(int(row), columns) for row in sampled]
    every = np.repeat(sampled, [len(part) for part in found])
    return every - rows.start, np.concatenate([*found, np.empty(0, np.int64)]) - columns.start


def query_list(names: list[str], rows: Axis, columns: Axis, tile: Tile, cell: NDArray[np.float32]) -> Tensors:
    """Geometry inputs of N queries, entry n of `rows` with entry n of `columns`: one row of N, not a grid.

    The graphs add and multiply row and column parts, so [·, 1, N] with [·, 1, N] asks N queries where [·, R, 1] with
    [·, 1, W] asks R × W.
    """
    grid = geometry_inputs(names, rows, columns, tile, cell)
    return {name: value.swapaxes(1, 2) if name.startswith("row_") else value for name, value in grid.items()}
