"""Transparency: upscales alpha separately, and makes colours safe to upscale beside it.

Files store colours that are not premultiplied, and any colour may hide under transparent pixels. Upscaled unchanged,
the hidden colour bleeds into the visible edge as a halo; so it is first replaced by its surroundings.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import FrameError, ScaleError
from hiif_deploy.pixels import Frame

FAINT = 1 / 32
"""Share of the largest alpha below which a pixel's own colour is replaced."""


def upscale_alpha(alpha: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize alpha [H, W], uint8 or uint16, to `size` = (height, width) by cubic interpolation, in the same dtype.

    Values are clamped to the dtype; fully opaque and fully transparent areas are unchanged. Raises FrameError for
    another array and ScaleError for a size below 1.
    """
    _check_alpha(alpha)
    height, width = size
    if height < 1 or width < 1:
        raise ScaleError(f"alpha of {height}×{width} pixels was requested: both sizes must be at least 1")
    return cv2.resize(alpha, (width, height), interpolation=cv2.INTER_CUBIC)


def fill_under_alpha(pixels: Frame, alpha: NDArray[Any]) -> Frame:
    """Replace the colours of (nearly) transparent pixels by those of visible pixels near them.

    pixels: [H, W] or [H, W, 3]; alpha: [H, W]; both uint8 or uint16. Pixels with alpha above 1/32 of the largest value
    are unchanged; the others get the alpha-weighted mean of the nearest visible block. A picture with nothing to fill,
    or nothing to fill from, is returned as the same array.
    """
    _check_alpha(alpha)
    if pixels.shape[:2] != alpha.shape:
        raise FrameError(f"alpha has shape {alpha.shape}; expected {pixels.shape[:2]}, that of the pixels")
    hidden = alpha <= np.iinfo(alpha.dtype).max * FAINT
    if not hidden.any() or hidden.all():
        return pixels
    weight: NDArray[np.float32] = np.divide(alpha, np.iinfo(alpha.dtype).max, dtype=np.float32)
    weight[hidden] = 0
    colours = pixels.reshape(*alpha.shape, -1).astype(np.float32)
    filled = np.rint(_spread(colours, weight)).astype(pixels.dtype).reshape(pixels.shape)
    return np.where(hidden.reshape(*alpha.shape, *[1] * (pixels.ndim - 2)), filled, pixels)


def _spread(colours: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill colours [H, W, C] where weight [H, W] is zero from ever coarser weighted means."""
    height, width = weight.shape
    if weight.all() or height * width == 1:
        return colours
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse_weight: NDArray[Any] = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    coarse = _planes(cv2.resize(colours * weight[..., None], half, interpolation=cv2.INTER_AREA))
    coarse /= np.maximum(coarse_weight, np.finfo(np.float32).tiny)[..., None]
    below = _spread(coarse, coarse_weight)
    finer = _planes(cv2.resize(below, (width, height), interpolation=cv2.INTER_LINEAR))
    return np.where(weight[..., None] > 0, colours, finer)


def _planes(colours: NDArray[Any]) -> NDArray[np.float32]:
    """Restore the third axis [H, W, C], which OpenCV drops for one channel."""
    return colours.reshape(*colours.shape[:2], -1)


def _check_alpha(alpha: NDArray[Any]) -> None:
    if alpha.ndim != 2 or alpha.dtype not in (np.uint8, np.uint16) or 0 in alpha.shape:
        arrived = f"{alpha.dtype} {alpha.shape}"
        raise FrameError(f"alpha is {arrived}; expected uint8 or uint16 of shape [H, W], not empty")
