"""One axis of CiaoSR's query grid: the nearest source pixel and two taps, by a corner rule of its own.

Its taps lie (1 − cell) / (source − 1) to both sides of a query instead of 1 / source: a little more than half a source
pixel. All arithmetic is float32 in the published order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.geometry.grid import EDGE, F32, Axis, BitRule, axis_fields, check_axis, nearest_pixel, pixel_centres


@dataclass(frozen=True)
class CiaosrAxis:
    """CiaoSR's table for `count` consecutive output pixels along one axis."""

    nearest: NDArray[np.int32]
    """[count]: source pixel that holds the query's centre."""
    taps: NDArray[np.int32]
    """[2, count]: source pixels below and above, at most one from `nearest`."""
    relative: NDArray[np.float32]
    """[2, count]: query − tap in half source pixels, signed."""


def ciaosr_axis(source: int, target: int, window: tuple[int, int] | None = None) -> CiaosrAxis:
    """Return the table of one axis; arguments and errors as `grid.axis_table`."""
    start, stop = check_axis(source, target, window)
    query = pixel_centres(target, np.arange(start, stop, dtype=np.int64))
    shift = _shift(source, target)
    taps = np.stack([nearest_pixel(query + (F32(side) * shift + F32(EDGE)), source) for side in (-1, 1)])
    centres = pixel_centres(source, taps.astype(np.int64))
    return CiaosrAxis(_pixel(query, source), taps, ((query - centres) * F32(source)).astype(F32))


def ciaosr_query_axis(
    source: int, target: int, window: tuple[int, int] | None = None, *, levels: int = 0, bits: BitRule = "exact"
) -> Axis:
    """Return CiaoSR's table as an `Axis`: the nearest pixel is the third tap, which `relative` and `distance` omit."""
    del levels, bits
    start, stop = check_axis(source, target, window)
    axis = ciaosr_axis(source, target, window)
    index, taps = np.arange(start, stop, dtype=np.int64), np.concatenate([axis.taps, axis.nearest[None]])
    return Axis(**axis_fields(source, target, index, taps, axis.relative, axis.relative[0] / F32(2)))


def _shift(source: int, target: int) -> np.float32:
    """Return the distance of a tap from its query; on an axis of one pixel every tap is that pixel."""
    room = F32(1) - F32(2 / target)
    if source == 1 or room == 0:
        return F32(0)
    return F32(F32(1) / (F32(source - 1) / room))


def _pixel(coordinate: NDArray[np.float32], source: int) -> NDArray[np.int32]:
    """Return the source pixel nearest to a coordinate, halves to even."""
    position = ((coordinate + F32(1)) * F32(source) - F32(1)) / F32(2)
    pixel: NDArray[np.int32] = np.clip(np.rint(position), 0, source - 1).astype(np.int32)
    return pixel
