"""Output sizes and regions as callers give them."""

import numbers

from hiif_deploy.errors import ScaleError
from hiif_deploy.geometry.grid import check_axis

Size = tuple[int, int]
"""A size as (height, width)."""
Region = tuple[int, int, int, int]
"""(top, left, height, width) in output pixels."""
Scale = float | tuple[float, float]
"""One factor, or (vertical, horizontal)."""

MAX_OUTPUT_PIXELS = 1 << 30
"""Output pixels beyond which a call is refused, unless the caller allows more."""
MAX_SIDE = 1 << 31
"""Largest absolute value that is accepted as a number of pixels."""
MAX_SCALE = 1 << 20


def output_size(source: Size, *, scale: Scale | None = None, size: Size | None = None) -> Size:
    """Return (height, width) for a scale or a size; ScaleError unless exactly one is given and it is at least 1."""
    if (scale is None) == (size is None):
        raise ScaleError("give either scale or size, not both and not neither")
    if size is not None:
        target = check_size(size)
    else:
        assert scale is not None
        down, across = check_scale(scale)
        target = (round(source[0] * down), round(source[1] * across))
    check_axis(source[0], target[0])
    check_axis(source[1], target[1])
    return target


def check_size(size: Size) -> Size:
    """Return (height, width) as integers; ScaleError for anything else."""
    height, width = _whole_numbers("size", size, ("height", "width"))
    return height, width


def check_scale(scale: Scale) -> tuple[float, float]:
    """Return (vertical, horizontal) factors; ScaleError unless both are finite and at least 1."""
    factors = tuple(scale) if isinstance(scale, (tuple, list)) else (scale, scale)
    if len(factors) != 2 or not all(_is_real(factor) for factor in factors):
        raise ScaleError(f"scale {_brief(scale)}: expected a number, or two (vertical, horizontal)")
    for factor in factors:
        if not 1 <= factor <= MAX_SCALE:
            raise ScaleError(
                f"scale {_brief(factor)}: expected a finite number of at least 1, and at most {MAX_SCALE:,}"
            )
    return float(factors[0]), float(factors[1])


def is_whole(value: object) -> bool:
    """Return whether a value has an integer type, Python's or NumPy's; bool does not count."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _whole_numbers(what: str, values: object, names: tuple[str, ...]) -> list[int]:
    """Return one integer per name; floats are accepted if they are integral."""
    found = values if isinstance(values, (tuple, list)) and len(values) == len(names) else (None,)
    if all(_is_real(value) and abs(value) <= MAX_SIDE and int(value) == value for value in found):
        return [int(value) for value in found]
    raise ScaleError(f"{what} {_brief(values)}: expected {len(names)} whole numbers of pixels ({', '.join(names)})")


def _brief(value: object) -> str:
    try:
        text = f"{value:g}" if isinstance(value, float) else repr(value)
    except ValueError:  # Python writes no numbers of thousands of digits
        return "of a huge number"
    return text if len(text) <= 60 else f"{text[:57]}…"


def check_output(source: Size, target: Size, limit: int) -> None:
    """Raise ScaleError for outputs that shrink or exceed `limit` pixels."""
    check_axis(source[0], target[0])
    check_axis(source[1], target[1])
    if target[0] * target[1] > limit:
        raise ScaleError(
            f"output of {target[1]}x{target[0]} is {target[0] * target[1]:,} pixels, over the limit of {limit:,}; "
            "raise max_output_pixels (--max-pixels) if that is meant"
        )


def check_region(size: Size, region: Region) -> Region:
    """Return the region as integers; ScaleError unless it lies inside an output of `size`."""
    top, left, height, width = _whole_numbers("region", region, ("top", "left", "height", "width"))
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
        raise ScaleError(
            f"region (top {top}, left {left}, height {height}, width {width}) does not lie inside the output of "
            f"{size[0]} rows and {size[1]} columns"
        )
    return top, left, height, width


def padded_size(size: Size, multiple: int) -> Size:
    """Return the next size whose sides are multiples of `multiple`."""
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def published_size(source: Size, target: Size, multiple: int) -> tuple[Size, Size]:
    """Return the padded source and target of the published evaluation of window transformers (design/model.md E4).

    It always pads, by a whole window where the size is a multiple already, and queries the padded grid. Raises
    ScaleError unless the scale is one integer.
    """
    scale = target[0] // source[0]
    if target != (source[0] * scale, source[1] * scale):
        raise ScaleError(
            f"{source} → {target}: the published evaluation of this encoder pads the picture and is defined for "
            "whole-number scales only; leave out group_rows (--published-rows)"
        )
    padded = tuple((n // multiple + 1) * multiple for n in source)
    return (padded[0], padded[1]), (padded[0] * scale, padded[1] * scale)
