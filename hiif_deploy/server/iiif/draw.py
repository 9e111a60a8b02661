"""Turns, colours and encodes the pixels of a view."""

import cv2
import numpy as np

from hiif_deploy.images.encode import encode
from hiif_deploy.images.picture import Picture
from hiif_deploy.pixels import Frame
from hiif_deploy.server.iiif.request import FORMATS, Drawing, Quality
from hiif_deploy.server.studio import Shown

FILE_QUALITY = 90
"""Quality of JPEG and WebP tiles."""


def draw(pixels: Frame, drawing: Drawing, shown: Shown) -> bytes:
    """Return pixels [H, W] or [H, W, 3], uint8 or uint16, as a file, with the colour profile of their picture."""
    if drawing.is_mirrored:
        pixels = pixels[:, ::-1]
    # NumPy turns against the clock.
    coloured = in_quality(np.rot90(pixels, -drawing.turns), drawing.quality)
    chunks = shown.colour_chunks if coloured.ndim == pixels.ndim else ()
    picture = Picture(np.ascontiguousarray(coloured), icc=shown.icc, colour_chunks=chunks)
    data, _ = encode(picture, FORMATS[drawing.format], quality=FILE_QUALITY, lossless=False)
    return data


def in_quality(pixels: Frame, quality: Quality) -> Frame:
    """Return pixels in the colours of an IIIF quality: three channels, one, or black and white alone."""
    if quality == "color" and pixels.ndim == 2:
        return np.dstack([pixels] * 3)
    if quality in ("default", "color"):
        return pixels
    grey: Frame = pixels if pixels.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    if quality == "gray":
        return grey
    top = np.iinfo(grey.dtype).max
    return np.where(grey > top // 2, np.uint8(255), np.uint8(0))
