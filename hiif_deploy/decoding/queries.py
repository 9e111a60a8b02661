"""Axis tables of a window and the geometry inputs that a graph takes from them."""

import functools
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.job import Array, Window
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import BundleError
from hiif_deploy.geometry.axes import AXES
from hiif_deploy.geometry.grid import Axis, AxisRule, BitRule, WeightedAxis
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import Tile

TABLES = 16
"""Axis tables kept: those of both axes of some sizes."""


def query_axes(contract: Contract, source: Size, target: Size, window: Window) -> tuple[Axis, Axis]:
    """Row and column tables of a window of the output, as the contract's decoder wants them."""
    decoder = contract.decoder
    rows, columns = (
        _axis(decoder.axes, *sizes, decoder.levels, decoder.bits)
        for sizes in zip(source, target, (window.rows, window.columns), strict=True)
    )
    return rows, columns


@functools.lru_cache(maxsize=TABLES)
def _axis(rule: AxisRule, source: int, target: int, window: tuple[int, int], levels: int, bits: BitRule) -> Axis:
    """Every frame of a clip has the same tables. They are shared, and only read."""
    return AXES[rule](source, target, window, levels=levels, bits=bits)


def geometry_inputs(names: list[str], rows: Axis, columns: Axis, tile: Tile, cell: Array) -> Tensors:
    """The geometry inputs that a graph names, shaped [·, R, 1] and [·, 1, W]; taps index the tile's maps."""
    width = tile.source_columns.stop - tile.source_columns.start
    tables: dict[str, Callable[[], NDArray[Any]]] = {
        # Maps are row-major: a row's tap counts whole rows of the tile, a column's the pixels in it.
        "row_tap": lambda: ((rows.taps - tile.source_rows.start) * width)[:, :, None],
        "column_tap": lambda: (columns.taps - tile.source_columns.start)[:, None, :],
        "row_relative": lambda: rows.relative[:, :, None],
        "column_relative": lambda: columns.relative[:, None, :],
        "row_distance": lambda: rows.distance[:, :, None],
        "column_distance": lambda: columns.distance[:, None, :],
        "row_bits": lambda: rows.bits[:, :, None],
        "column_bits": lambda: columns.bits[:, None, :],
        "row_local": lambda: rows.local[None, :, None],
        "column_local": lambda: columns.local[None, None, :],
        "row_weight": lambda: _tap_weights(rows)[:, :, None],
        "column_weight": lambda: _tap_weights(columns)[:, None, :],
        "cell": lambda: cell,
    }
    return {name: tables[name]() for name in names}


def _tap_weights(axis: Axis) -> Array:
    if not isinstance(axis, WeightedAxis):
        raise BundleError("the decoder wants weights of its taps, and the contract's axes have none: export it again")
    return axis.weight
