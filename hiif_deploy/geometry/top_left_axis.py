"""One axis of MetaSR's query grid: positions are those of pixels' top left corners, and one source pixel is read.

All arithmetic is float32 in the published order (design/decoders.md M1).
"""

import numpy as np

from hiif_deploy.geometry.grid import EDGE, F32, Axis, BitRule, axis_fields, check_axis, nearest_pixel, pixel_centres


def top_left_axis(
    source: int, target: int, window: tuple[int, int] | None = None, *, levels: int = 0, bits: BitRule = "exact"
) -> Axis:
    """Return an `Axis` with one tap; `relative` is in [0, 2) up to rounding. Arguments and errors as
    `grid.axis_table`."""
    del levels, bits
    start, stop = check_axis(source, target, window)
    index = np.arange(start, stop, dtype=np.int64)
    query = (pixel_centres(target, index) - F32(2 / target) / F32(2)).astype(F32)
    tap = nearest_pixel(query + F32(EDGE), source)
    corner = (pixel_centres(source, tap.astype(np.int64)) - F32(1 / source)).astype(F32)
    relative = ((query - corner) * F32(source)).astype(F32)
    return Axis(**axis_fields(source, target, index, tap[None], relative[None], relative / F32(2)))
