"""Frames of a stream ↔ RGB arrays, with the stream's own matrix and range.

Streams of 8 bits become uint8, deeper ones uint16. Chroma is interpolated bicubically and written as MPEG-2 sites it,
to the left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.video.probe import FULL_RANGE, UNSPECIFIED
from hiif_deploy.video.pyav import pyav
from hiif_deploy.video.task import Encoding

Picture = NDArray[Any]
"""[H, W, 3] RGB, uint8 or uint16."""
RGB_MATRIX = 0
"""H.273's number where samples are red, green and blue themselves."""
HD_ROWS = 720
"""Untagged streams of so many rows and more are taken as BT.709, smaller ones as BT.601, as players do."""
BT709, BT601 = 1, 6
LIMITED_RANGE = 1


def likely_matrix(matrix: int, height: int) -> int:
    """The matrix that players use for a stream of that height."""
    if matrix != UNSPECIFIED:
        return matrix
    return BT709 if height >= HD_ROWS else BT601


class Converter:
    """Both ways; keeps its scalers between frames. For one thread."""

    def __init__(self) -> None:
        self._av = pyav()
        self._scaler = self._av.video.reformatter.VideoReformatter()
        kind = self._av.video.reformatter.Interpolation
        self._how = int(
            kind.BICUBIC | kind.ACCURATE_RND | kind.BITEXACT | kind.FULL_CHR_H_INT | kind.FULL_CHR_H_INP
        )  # fmt: skip

    def to_rgb(self, frame: Any) -> Picture:
        """A decoded frame → an array of its own."""
        is_deep = frame.format.components[0].bits > 8
        frame.colorspace = likely_matrix(frame.colorspace, frame.height)
        made = self._scaler.reformat(
            frame, format="rgb48le" if is_deep else "rgb24", interpolation=self._how, threads=1
        )
        picture: Picture = made.to_ndarray()
        return picture

    def from_rgb(self, picture: Picture, encoding: Encoding) -> Any:
        """An array → a frame that the encoder takes."""
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24" if picture.dtype == np.uint8 else "rgb48le")
        levels = FULL_RANGE if encoding.is_full_range else LIMITED_RANGE
        # The scaler copies these to the frame it makes, and reads them there.
        frame.colorspace = likely_matrix(encoding.matrix, encoding.size[0])
        made = self._scaler.reformat(
            frame, format=encoding.pixel_format, interpolation=self._how, dst_color_range=levels, threads=1
        )
        made.colorspace, made.color_range = encoding.matrix, 0 if encoding.is_full_range is None else levels
        made.color_primaries, made.color_trc = encoding.primaries, encoding.transfer
        return made
