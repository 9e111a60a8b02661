"""Converts luma and chroma to 16-bit red, green and blue and back, by the formulas of ITU-T H.273.

FFmpeg's scaler treats white of more than 8 bits as 255/256, so its output is darker than the clip, and full range is
not restored exactly. These functions are exact to half a step.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import VideoError

Planes = NDArray[Any]
"""Luma, blue and red difference [3, H, W], or grey [1, H, W]; uint8 or uint16."""
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""H.273's number of a matrix → weights of red and blue in luma; green has the rest."""
TOP = 65535
ROWS = 32
"""Rows per step, so that the arrays stay in the processor's cache."""


def to_rgb16(planes: Planes, bits: int, matrix: int, *, is_full_range: bool) -> NDArray[np.uint16]:
    """Convert planes [3, H, W] or [1, H, W] of `bits` bits to RGB [H, W, 3] uint16.

    VideoError for a matrix that is not in `WEIGHTS`; grey needs none.
    """
    low, luma, chroma, middle = _steps(bits, is_full_range)
    red, blue = (0.0, 0.0) if len(planes) == 1 else _weights(matrix)
    picture = np.empty((*planes.shape[1:], 3), dtype=np.uint16)
    for start in range(0, len(picture), ROWS):
        rows = slice(start, start + ROWS)
        y = (planes[0, rows].astype(np.float32) - low) * (TOP / luma)
        if len(planes) == 1:
            picture[rows] = _rounded(y, TOP)[..., None]
            continue
        b, r = ((plane[rows].astype(np.float32) - middle) * (TOP / chroma) for plane in planes[1:])
        r *= 2 * (1 - red)
        b *= 2 * (1 - blue)
        # Green follows from luma being the weighted sum of all three.
        picture[rows, :, 1] = _rounded(y - (red * r + blue * b) / (1 - red - blue), TOP)
        picture[rows, :, 0], picture[rows, :, 2] = _rounded(y + r, TOP), _rounded(y + b, TOP)
    return picture


def from_rgb(picture: NDArray[Any], bits: int, matrix: int, *, is_full_range: bool, is_grey: bool = False) -> Planes:
    """Convert RGB [H, W, 3], uint8 or uint16, to planes [3, H, W] or [1, H, W] of `bits` bits.

    VideoError for a matrix that is not in `WEIGHTS`.
    """
    red, blue = _weights(matrix)
    low, luma, chroma, middle = _steps(bits, is_full_range)
    top = (1 << bits) - 1
    planes = np.empty((1 if is_grey else 3, *picture.shape[:2]), dtype=np.uint16 if bits > 8 else np.uint8)
    white = np.float32(1 / np.iinfo(picture.dtype).max)
    for start in range(0, len(picture), ROWS):
        rows = slice(start, start + ROWS)
        r, g, b = (picture[rows, :, n].astype(np.float32) * white for n in range(3))
        # Written as green plus differences: grey stays grey, bit for bit.
        y = g + red * (r - g) + blue * (b - g)
        planes[0, rows] = _rounded(y * luma + low, top)
        if not is_grey:
            planes[1, rows] = _rounded((b - y) * (chroma / (2 * (1 - blue))) + middle, top)
            planes[2, rows] = _rounded((r - y) * (chroma / (2 * (1 - red))) + middle, top)
    return planes


def _weights(matrix: int) -> tuple[float, float]:
    try:
        return WEIGHTS[matrix]
    except KeyError:
        known = ", ".join(map(str, WEIGHTS))
        raise VideoError(f"colour matrix {matrix} of H.273: expected one of {known}; convert it with FFmpeg") from None


def _steps(bits: int, is_full_range: bool) -> tuple[int, int, int, int]:
    """Return black, luma range, chroma range and neutral chroma, in steps of `bits` bits."""
    unit = 1 << (bits - 8)
    top = (1 << bits) - 1
    return (0, top, top, 128 * unit) if is_full_range else (16 * unit, 219 * unit, 224 * unit, 128 * unit)


def _rounded(values: NDArray[Any], top: int) -> NDArray[Any]:
    np.rint(values, out=values)
    clipped: NDArray[Any] = np.clip(values, 0, top, out=values)
    return clipped
