"""The four source pixels around a query as a graph reads them: pixel indices, area weights, relative positions.

Queries are all of R rows × W columns, row-major, N = R · W in all. Corners are in the order of `CORNERS`.
"""

import torch
from torch import Tensor, nn

from hiif_training.queries.axis import CORNERS

AREA_SCALE = 2.0**30
AREA_EPSILON = float(torch.tensor(1e-9, dtype=torch.float32)) * AREA_SCALE


def corner_pixels(row_tap: Tensor, column_tap: Tensor) -> list[Tensor]:
    """Return four indices [N] into a tile's maps, from row taps [2, R, 1] and column taps [2, 1, W]."""
    return [(row_tap[a] + column_tap[b]).flatten() for a, b in CORNERS]


def corner_weights(row_distance: Tensor, column_distance: Tensor) -> list[Tensor]:
    """Return four area weights [N, 1] from distances [2, R, 1] and [2, 1, W] (design/model.md C5).

    The 1e-9 matters where an area is 0 or both taps coincide.
    """
    # Areas are scaled by a power of two, which changes no bit of their ratios: the exporter's optimizer takes a
    # bare 1e-9 for zero and drops it.
    rows = row_distance * AREA_SCALE
    areas = [(rows[a] * column_distance[b] + AREA_EPSILON).reshape(-1, 1) for a, b in CORNERS]
    total = ((areas[0] + areas[1]) + areas[2]) + areas[3]
    return [area / total for area in reversed(areas)]


def corner_relatives(row_relative: Tensor, column_relative: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return four pairs of row [R, 1, 1] and column [1, W, 1], from relative positions [2, R, 1] and [2, 1, W].

    A relative position is that of the query minus that of the corner.
    """
    return [(row_relative[a][..., None], column_relative[b][..., None]) for a, b in CORNERS]


class Position(nn.Module):
    """The part of a linear layer that reads a corner's (row, column): a row part plus a column part."""

    row: Tensor
    column: Tensor

    def __init__(self, weight: Tensor) -> None:
        """`weight` [M, 2] has the columns (row, column)."""
        super().__init__()
        self.register_buffer("row", weight[:, 0].clone())
        self.register_buffer("column", weight[:, 1].clone())

    def forward(self, row: Tensor, column: Tensor, constant: Tensor) -> Tensor:
        """Row [R, 1, 1], column [1, W, 1] and constant [M] → [R·W, M]."""
        return (row * self.row + (column * self.column + constant)).flatten(0, 1)
