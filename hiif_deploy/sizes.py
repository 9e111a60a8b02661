"""Output sizes and regions, as callers name them."""

from __future__ import annotations

import math

from hiif_deploy.errors import ScaleError
from hiif_deploy.grid import check_axis

Size = tuple[int, int]
"""(height, width)."""
Region = tuple[int, int, int, int]
"""(top, left, height, width) in output pixels."""
Scale = float | tuple[float, float]
"""One factor, or (vertical, horizontal)."""

MAX_OUTPUT_PIXELS = 1 << 30
"""Output pixels beyond which a call is refused, unless the caller allows more."""


def output_size(source: Size, *, scale: Scale | None = None, size: Size | None = None) -> Size:
    """(height, width) for a scale or a size; ScaleError unless exactly one is given and it is at least 1."""
    if (scale is None) == (size is None):
        raise ScaleError("give either scale or size, not both and not neither")
    if size is not None:
        if len(size) != 2 or any(int(n) != n for n in size):
            raise ScaleError(f"size {size}: expected two whole numbers (height, width)")
        target = (int(size[0]), int(size[1]))
    else:
        assert scale is not None
        down, across = check_scale(scale)
        target = (round(source[0] * down), round(source[1] * across))
    check_axis(source[0], target[0])
    check_axis(source[1], target[1])
    return target


def check_scale(scale: Scale) -> tuple[float, float]:
    """(vertical, horizontal) factors; ScaleError unless both are finite and at least 1."""
    factors = scale if isinstance(scale, tuple) else (scale, scale)
    for factor in factors:
        if not math.isfinite(factor) or factor < 1:
            raise ScaleError(f"scale {factor:g}: expected a finite number of at least 1")
    return factors


def check_output(source: Size, target: Size, limit: int) -> None:
    """ScaleError for outputs that shrink or exceed `limit` pixels."""
    check_axis(source[0], target[0])
    check_axis(source[1], target[1])
    if target[0] * target[1] > limit:
        raise ScaleError(
            f"output of {target[1]}x{target[0]} is {target[0] * target[1]:,} pixels, over the limit of {limit:,}; "
            "raise max_output_pixels (--max-pixels) if that is meant"
        )


def check_region(size: Size, region: Region) -> None:
    """ScaleError unless the region lies inside an output of `size`."""
    top, left, height, width = region
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise ScaleError(
            f"region (top {top}, left {left}, height {height}, width {width}) does not lie inside the output of "
            f"{size[0]} rows and {size[1]} columns"
        )


def padded_size(size: Size, multiple: int) -> Size:
    """The next size whose sides are multiples of `multiple`."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def published_size(source: Size, target: Size, multiple: int) -> tuple[Size, Size]:
    """Padded source and target of the published evaluation of window transformers (design/model.md E4).

    It always pads, a whole window where the size is a multiple already, and queries the padded grid.
    Raises ScaleError unless the scale is one whole number.
    """
    scale = target[0] // source[0]
    if target != (source[0] * scale, source[1] * scale):
        raise ScaleError(
            f"{source} → {target}: the published evaluation of this encoder pads the picture and is defined for "
            "whole-number scales only; leave out group_rows (--published-rows)"
        )
    padded = tuple((n // multiple + 1) * multiple for n in source)
    return (padded[0], padded[1]), (padded[0] * scale, padded[1] * scale)
