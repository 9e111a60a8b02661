"""Checks that the output of an engine is a picture: NaN, infinity, or values far from any colour are an error."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import EngineError
from hiif_deploy.pixels import Frame

MAX_COLOUR = 1000.0
"""White being 1. Sharp edges overshoot by tenths, untrained weights by some units."""
DARK = 0.02
"""Mean of a picture that may become black."""
MIN_PIXELS = 64
"""Of a picture that is not expected to become black: less may happen by chance."""


class NotAPictureError(EngineError):
    """The engine's output is no picture."""

    def __init__(self, what: str, where: str = "the engine") -> None:
        self.what, self.where = what, where
        advice = "check the bundle with hiif-deploy verify; in half precision, choose --precision fp32"
        super().__init__(f"{where} gave {what}: {advice}")

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        # Pickled exceptions are made again from their message, which is not what this one is made from.
        return type(self), (self.what, self.where)


@dataclass(frozen=True)
class ColourRange:
    """Least, largest and summed value of a block of colours, white being 1."""

    low: float
    """The least of them."""
    high: float
    """The largest of them."""
    total: float
    """Their sum. Least and largest may miss a NaN, the sum does not."""

    @classmethod
    def of(cls, values: NDArray[Any]) -> Self:
        """Range of a float array of any shape. NumPy's least and largest value are NaN where one is."""
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        return cls(low, high, low + high)

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return math.isfinite(self.low) and math.isfinite(self.high) and not math.isnan(self.total)


def check_range(found: ColourRange, where: str, most: float = MAX_COLOUR) -> None:
    """NotAPictureError where a value is NaN or infinite, or beyond ±`most`."""
    if not found.is_finite:
        raise NotAPictureError("no numbers (NaN or infinite)", where)
    if max(-found.low, found.high) > most:
        raise NotAPictureError(f"colours of {found.low:.3g} to {found.high:.3g}, where black is 0 and white 1", where)


def check_values(values: NDArray[Any], where: str) -> None:
    """NotAPictureError where a value is NaN or infinite."""
    check_range(ColourRange.of(values), where, math.inf)


def check_not_black(made: Frame, given: Frame, where: str) -> None:
    """NotAPictureError where a whole frame is black and the one that it was made from is not."""
    if given.shape[0] * given.shape[1] < MIN_PIXELS or made.any():
        return
    white = float(np.iinfo(given.dtype).max) if given.dtype.kind == "u" else 1.0
    if float(given.mean(dtype=np.float64)) > DARK * white:
        raise NotAPictureError("all black though the input is not", where)
