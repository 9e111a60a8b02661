"""What a caller may hand over as a picture: an array, a file's path, or a picture of Pillow."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from hiif_deploy.errors import FrameError
from hiif_deploy.pixels import Frame, check_frame

if TYPE_CHECKING:
    from PIL.Image import Image

    Source = Frame | str | os.PathLike[str] | Image
"""An array [H, W], [H, W, 1] or [H, W, 3] RGB (see `pixels`), the path of a picture file, or a Pillow image."""


def as_frame(source: Source) -> Frame:
    """A checked frame of any source; a file is read upright. FrameError, or ImageError for a file.

    What an array cannot hold is refused: transparency, and what has no 8 or 16 bits per sample.
    """
    if isinstance(source, (str, os.PathLike)):
        return _read(source)
    frame: Any = source
    # Whoever hands over a Pillow image has loaded Pillow: nobody else waits for it.
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(source, pillow.Image):
        frame = _pixels(source)
    check_frame(frame)
    checked: Frame = frame
    return checked


def _read(path: str | os.PathLike[str]) -> Frame:
    from hiif_deploy.images import read_image

    picture = read_image(path)
    if picture.alpha is not None:
        raise FrameError(f"{os.fspath(path)}: {_TRANSPARENT}")
    return picture.pixels


def _pixels(image: Image) -> Frame:
    if image.has_transparency_data:
        raise FrameError(f"this {image.mode} picture {_TRANSPARENT}")
    return np.asarray(image if image.mode in _KEPT else image.convert("L" if image.mode == "1" else "RGB"))


_TRANSPARENT = (
    "has transparency, which an array of colours cannot hold: hiif-deploy upscale keeps it, or convert it to RGB first"
)
_KEPT = ("L", "RGB", "I;16", "F")
"""Modes of Pillow whose arrays are frames as they are."""
