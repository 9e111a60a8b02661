"""Bicubic resizing as the published test pictures were made: MATLAB's imresize, and Pillow's.

MATLAB's rule: cubic with a = −0.5, widened by the factor when downscaling (antialiased), borders mirrored, rows first
then columns. For uint8 both passes round half up to uint8; EDSR's LR_bicubic folders are reproduced bit for bit.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hiif_deploy.geometry.sizes import Size

LowRule = Literal["matlab", "pil"]


def shrink(picture: NDArray[np.uint8], size: Size, rule: LowRule) -> NDArray[np.uint8]:
    """Downscale an RGB picture [H, W, 3] to [h, w, 3] by one of the two rules."""
    if rule == "pil":
        return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    rows = _round(matlab_axis(picture.astype(np.float64), size[0], 0))
    return _round(matlab_axis(rows.astype(np.float64), size[1], 1))


def upscale_bicubic(picture: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
    """Upscale [h, w, 3] uint8 to [H, W, 3] float32 in [0, 1] by MATLAB's rule, not rounded to 8 bits."""
    large = matlab_axis(matlab_axis(picture / 255, size[0], 0), size[1], 1)
    return np.clip(large, 0, 1).astype(np.float32)


def matlab_axis(picture: NDArray[Any], count: int, axis: int) -> NDArray[np.float64]:
    """Resize an array [...] to `count` pixels along one axis, float64, not rounded."""
    length = picture.shape[axis]
    factor = count / length
    stretch = min(factor, 1.0)
    support = 4 / stretch
    centre = (np.arange(1, count + 1) / factor) + 0.5 * (1 - 1 / factor)
    first = np.floor(centre - support / 2)
    taps = first[:, None] + np.arange(int(np.ceil(support)) + 2)
    weights = stretch * cubic(stretch * (centre[:, None] - taps))
    weights /= weights.sum(axis=1, keepdims=True)
    index = _mirror(taps.astype(np.int64) - 1, length)
    moved = np.moveaxis(picture, axis, 0)
    result = np.zeros((count, *moved.shape[1:]))
    for tap in range(taps.shape[1]):
        result += weights[:, tap].reshape(-1, *[1] * (moved.ndim - 1)) * moved[index[:, tap]]
    return np.moveaxis(result, 0, axis)


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel with a = −0.5 at distances [...]."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _mirror(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Mirror 0-based indices beyond the border, the border pixel repeated."""
    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def _round(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)
