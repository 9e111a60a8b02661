"""Is what an engine answered a picture? Numbers that are none, or far from any colour, are an error and not black."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import EngineError
from hiif_deploy.pixels import Frame

MOST_COLOUR = 1000.0
"""White being 1. Sharp edges overshoot by tenths, untrained weights by some units."""
DARK = 0.02
"""Mean of a picture that may become black."""
LEAST_PIXELS = 64
"""Of a picture that is not expected to become black: less may happen by chance."""


class NotAPictureError(EngineError):
    """The engine answered numbers that are no picture."""

    def __init__(self, what: str, where: str = "the engine") -> None:
        self.what, self.where = what, where
        advice = "check the bundle with hiif-deploy verify; in half precision, choose --precision fp32"
        super().__init__(f"{where} answered {what}: {advice}")

    def __reduce__(self) -> tuple[type[NotAPictureError], tuple[str, str]]:
        # Pickled exceptions are made again from their message, which is not what this one is made from.
        return type(self), (self.what, self.where)


def check_values(values: NDArray[Any], where: str, most: float = float(np.finfo(np.float32).max)) -> None:
    """NotAPictureError where a value is NaN or infinite, or beyond ±`most`."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if np.isfinite(low) and np.isfinite(high):
        if max(-low, high) > most:
            raise NotAPictureError(f"colours of {low:.3g} to {high:.3g}, where black is 0 and white 1", where)
    else:
        raise NotAPictureError("no numbers (NaN or infinite)", where)


def check_not_black(frame: Frame, image: NDArray[np.float32], where: str) -> None:
    """NotAPictureError where a whole frame is black and its unit picture [h, w, 3] is not."""
    if image.shape[0] * image.shape[1] >= LEAST_PIXELS and not frame.any() and float(image.mean()) > DARK:
        raise NotAPictureError("all black though the input is not", where)
