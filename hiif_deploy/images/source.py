"""Converts a caller's picture to a frame: an array, a file's path, or a Pillow image."""

from __future__ import annotations

import os
import struct
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from hiif_deploy.errors import FrameError, ImageError
from hiif_deploy.pixels import Frame, check_frame

if TYPE_CHECKING:
    from PIL.Image import Image

    Source = Frame | str | os.PathLike[str] | Image
"""An array [H, W], [H, W, 1] or [H, W, 3] RGB (see `pixels`), the path of a picture file, or a Pillow image."""


def as_frame(source: Source) -> Frame:
    """Return a checked frame [H, W], [H, W, 1] or [H, W, 3] RGB from any source.

    FrameError, or ImageError for a file or a Pillow image that cannot be read. The orientation in EXIF or XMP is
    applied to files and Pillow images alike; an array is used unchanged. Pictures that an array cannot represent are
    refused: transparency, and other depths than 8 or 16 bits per sample.
    """
    if isinstance(source, (str, os.PathLike)):
        return _read(source)
    frame: Any = source
    # A caller with a Pillow image has already imported Pillow: for all others the import is avoided.
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(source, pillow.Image):
        frame = _pixels(source)
    check_frame(frame)
    checked: Frame = frame
    return checked


def _read(path: str | os.PathLike[str]) -> Frame:
    from hiif_deploy.images.io import read_image

    picture = read_image(path)
    if picture.alpha is not None:
        raise FrameError(f"{os.fspath(path)}: {_TRANSPARENT}")
    return picture.pixels


def _pixels(image: Image) -> Frame:
    if image.has_transparency_data:
        raise FrameError(f"this {image.mode} picture {_TRANSPARENT}")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(
            f"this {image.mode} picture of Pillow cannot be read ({error}): open its file again"
        ) from error
    if image.mode in _SIXTEEN_BITS:
        pixels: Frame = np.asarray(image).astype(np.uint16, copy=False)
    elif image.mode in _CONVERTED:
        pixels = np.asarray(image.convert(_CONVERTED[image.mode]))
    else:
        raise FrameError(
            f"pixels of Pillow's mode {image.mode!r} are of no known range; expected 8 or 16 bits per sample: hand "
            "over an array of uint8, uint16 or floats in [0, 1]"
        )
    return _upright(image, pixels)


def _upright(image: Image, pixels: Frame) -> Frame:
    from hiif_deploy.images.metadata import ORIENTATION
    from hiif_deploy.images.picture import turn

    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except (SyntaxError, ValueError, LookupError, OSError, struct.error):
        return pixels  # As for a file: damaged metadata do not make the pixels unreadable.
    return np.ascontiguousarray(turn(pixels, orientation)) if orientation in range(2, 9) else pixels


_TRANSPARENT = (
    "has transparency, which an array of colours cannot hold: hiif-deploy upscale keeps it, or convert it to RGB first"
)
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_CONVERTED = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
"""Pillow's opaque modes of 8 bits per sample, and what they become. It would clip deeper ones to 8 bits in silence."""
