"""PSNR and SSIM by the published protocol (design/model.md E5, E6)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import FrameError

LUMA = (65.738, 129.057, 25.064)
"""Weights of red, green and blue, in 256ths."""

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
"""Side of the window in pixels, and standard deviation of its Gaussian."""
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
"""Stabilising constants of SSIM for values in [0, 1]."""

Array = NDArray[np.float32]


def psnr_luma(prediction: Array, truth: Array, shave: int) -> float:
    """Return the luma PSNR in dB of two RGB pictures [H, W, 3] in [0, 1], `shave` pixels cropped at every side.

    The prediction is clamped, not rounded to 8 bits.
    """
    return _psnr(luma(_difference(prediction, truth, shave)))


def psnr_rgb(prediction: Array, truth: Array, shave: int) -> float:
    """Return the PSNR in dB over all channels of two RGB pictures [H, W, 3] in [0, 1]; otherwise as `psnr_luma`."""
    return _psnr(_difference(prediction, truth, shave))


def ssim(prediction: Array, truth: Array, shave: int, *, on_luma: bool) -> float:
    """Return the mean SSIM of luma or RGB of two pictures [H, W, 3] in [0, 1], cropped as for PSNR.

    Wang et al. 2004 with a Gaussian window of 11 and sigma 1.5; as in torchmetrics, the mean is over every pixel and
    the picture is mirrored at its edges.
    """
    _difference(prediction, truth, shave)
    x, y = (_inner(picture.astype(np.float64), shave) for picture in (np.clip(prediction, 0, 1), truth))
    if on_luma:
        x, y = luma(x), luma(y)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = (np.maximum(_windowed(v * v) - m**2, 0) for v, m in ((x, mean_x), (y, mean_y)))
    covariance = _windowed(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)
    likeness /= (mean_x**2 + mean_y**2 + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
    return float(np.mean(likeness))


def _windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gaussian-weighted mean around every pixel."""
    if min(values.shape[:2]) <= SSIM_WINDOW // 2:
        raise FrameError(f"SSIM needs more than 5 pixels on a side, and {values.shape[1]}x{values.shape[0]} are left")
    blurred = cv2.GaussianBlur(values, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, dtype=np.float64)


def luma(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """RGB [H, W, 3] → luma [H, W], without the offset of 16, which cancels in differences."""
    weighted: NDArray[np.float64] = colours @ np.array(LUMA) / 256
    return weighted


def _difference(prediction: Array, truth: Array, shave: int) -> NDArray[np.float64]:
    if prediction.shape != truth.shape or prediction.ndim != 3 or min(truth.shape[:2]) <= 2 * shave:
        raise FrameError(f"pictures {prediction.shape} and {truth.shape} cannot be compared with {shave} pixels shaved")
    return _inner(np.clip(prediction, 0, 1).astype(np.float64) - truth, shave)


def _inner(picture: NDArray[np.float64], shave: int) -> NDArray[np.float64]:
    return picture[shave : picture.shape[0] - shave, shave : picture.shape[1] - shave]


def _psnr(difference: NDArray[np.float64]) -> float:
    error = float(np.mean(difference**2))
    return -10 * math.log10(error) if error > 0 else math.inf
