"""How far a prediction lies from the truth, by the published protocol (design/model.md E5, E6)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import FrameError

LUMA = (65.738, 129.057, 25.064)
"""Weights of red, green and blue, of 256."""


def psnr_luma(prediction: NDArray[np.float32], truth: NDArray[np.float32], shave: int) -> float:
    """PSNR in dB of the luma of two pictures [H, W, 3] in [0, 1], `shave` pixels left out at every side.

    The prediction is clamped, not rounded to 8 bits.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3 or min(truth.shape[:2]) <= 2 * shave:
        raise FrameError(f"pictures {prediction.shape} and {truth.shape} cannot be compared with {shave} pixels shaved")
    difference = np.clip(prediction, 0, 1).astype(np.float64) - truth
    luma = difference @ np.array(LUMA) / 256
    inner = luma[shave : luma.shape[0] - shave, shave : luma.shape[1] - shave]
    error = float(np.mean(inner**2))
    return -10 * math.log10(error) if error > 0 else math.inf
