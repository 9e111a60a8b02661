"""Formats durations and rates for people."""

import math
from itertools import pairwise

UNITS = (("s", 1), ("min", 60), ("h", 3_600), ("d", 86_400))
"""Name and seconds of each unit, the smallest first."""
LIMITS = {"min": 3_600.0, "h": 86_400.0, "d": math.inf}
"""Unit → seconds from which a larger unit is used."""


def duration(seconds: float) -> str:
    """Format seconds as `0.42 s`, `42 s`, `3 min 20 s` or `3 h 21 min`: at most two units, rounded to the smaller
    one."""
    if round(seconds, 2) < 10:
        return f"{seconds:.2f} s"
    for (small, smaller), (name, size) in pairwise(UNITS):
        count, rest = divmod(round(seconds / smaller), size // smaller)
        if count * size < LIMITS[name]:
            return " ".join(f"{number} {unit}" for number, unit in ((count, name), (rest, small)) if number)
    raise AssertionError(f"{seconds} s: the last limit is infinite")


def pixel_rate(megapixels_per_second: float) -> str:
    """Format a number of output megapixels per second."""
    return f"{megapixels_per_second:.3g} megapixels/s"


def frame_rate(frames_per_second: float) -> str:
    """Format a number of output frames per second."""
    return f"{frames_per_second:.3g} frames/s"
