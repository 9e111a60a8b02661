"""One axis of CLIT's query grid: the pixels of its local attention, and the taps of its attention query.

A query attends to `2·reach + 1` pixels around the nearest one; its attention query is a bilinear sample. Pixels beyond
the picture count, with features of zero. All arithmetic is float32 in the published order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import ScaleError
from hiif_deploy.geometry.grid import F32, BitRule, WeightedAxis, axis_fields, check_axis, pixel_centres

STAGE_SCALE = 4
"""Factor by which each stage's features are larger than those of the stage before."""


@dataclass(frozen=True)
class ClitAxis:
    """The table of one CLIT stage for `count` consecutive output pixels along one axis."""

    tokens: NDArray[np.int32]
    """[2·reach + 1, count]: pixels of the stage around the nearest one, clamped to the picture."""
    inside: NDArray[np.float32]
    """[2·reach + 1, count]: 1, or 0 for a token beyond the picture."""
    relative: NDArray[np.float32]
    """[2·reach + 1, count]: query − token in half pixels of the stage, beyond the picture too."""
    taps: NDArray[np.int32]
    """[2, count]: pixels of the stage between which the attention query is interpolated, clamped likewise."""
    weight: NDArray[np.float32]
    """[2, count]: their weights; 0 beyond the picture, so that those of an outer query do not sum to 1."""


def clit_axis(size: int, target: int, window: tuple[int, int] | None = None, *, reach: int = 3) -> ClitAxis:
    """Return the table of one axis over a stage of `size` pixels; the other arguments and errors as
    `grid.axis_table`."""
    start, stop = check_axis(size, target, window)
    query = pixel_centres(target, np.arange(start, stop, dtype=np.int64))
    position = (((query + F32(1)) * F32(size) - F32(1)) / F32(2)).astype(F32)
    nearest = np.clip(np.rint(position), 0, size - 1).astype(np.int64)
    offset = np.arange(-reach, reach + 1)[:, None]
    tokens = nearest + offset
    centre = pixel_centres(size, nearest) + offset.astype(F32) * F32(2 / size)
    low = np.floor(position)
    taps = np.stack([low, low + 1]).astype(np.int64)
    weight = np.stack([low + 1 - position, position - low])
    return ClitAxis(
        tokens=np.clip(tokens, 0, size - 1).astype(np.int32),
        inside=_is_inside(tokens, size),
        relative=((query - centre) * F32(size)).astype(F32),
        taps=np.clip(taps, 0, size - 1).astype(np.int32),
        weight=(weight * _is_inside(taps, size)).astype(F32),
    )


def clit_query_axis(
    source: int, target: int, window: tuple[int, int] | None = None, *, levels: int = 0, bits: BitRule = "exact"
) -> WeightedAxis:
    """Return CLIT's table at the published reach as an `Axis`: taps are the tokens, then those of the attention query.

    `relative` and `distance` are the tokens'.
    """
    del levels, bits
    start, stop = check_axis(source, target, window)
    axis = clit_axis(source, target, window)
    index, taps = np.arange(start, stop, dtype=np.int64), np.concatenate([axis.tokens, axis.taps])
    common = axis_fields(source, target, index, taps, axis.relative, axis.weight[1])
    return WeightedAxis(**common, weight=np.concatenate([axis.inside, axis.weight]))


def stage_sizes(source: tuple[int, int], target: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (height, width) of the features of every stage that upscaling to `target` needs.

    One stage up to ×4; beyond, one per factor of four and one for the rest: ×6 is 4 · 1.5. Where rows and columns
    differ the smaller scale decides, so that no stage is larger than the output.
    """
    if min(source) < 1:
        raise ScaleError(f"picture of {source[1]}x{source[0]} pixels: both sides must be at least 1")
    sizes, size = [source], _larger(source)
    if min(target[0] - size[0], target[1] - size[1]) > 0:
        sizes.append(size)
        while target[0] >= _larger(size)[0] and target[1] >= _larger(size)[1]:
            size = _larger(size)
            sizes.append(size)
    return sizes


def _larger(size: tuple[int, int]) -> tuple[int, int]:
    return STAGE_SCALE * size[0], STAGE_SCALE * size[1]


def _is_inside(pixels: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    return ((pixels >= 0) & (pixels < size)).astype(F32)
