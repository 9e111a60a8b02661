"""Converts frames of a stream to RGB arrays and back, with the stream's own matrix and range.

Streams of 8 bits become uint8, deeper ones uint16. Chroma is interpolated bicubically and sited to the left, as in
MPEG-2. FFmpeg's scaler converts 8-bit colours; deeper ones use `levels`, because the scaler is inexact there.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.video import levels
from hiif_deploy.video.probe import FULL_RANGE, UNSPECIFIED
from hiif_deploy.video.pyav import pyav
from hiif_deploy.video.task import Encoding

RgbFrame = NDArray[Any]
"""RGB frame [H, W, 3], uint8 or uint16."""
RGB_MATRIX = 0
"""H.273's number for samples that are red, green and blue themselves."""
HD_ROWS = 720
"""Untagged streams with at least this many rows are decoded as BT.709, smaller ones as BT.601, as players do."""
BT709, BT601 = 1, 6
LIMITED_RANGE = 1


def likely_matrix(matrix: int, height: int) -> int:
    """Return the matrix that players use for a stream of that height."""
    if matrix != UNSPECIFIED:
        return matrix
    return BT709 if height >= HD_ROWS else BT601


class Converter:
    """Converts in both directions and reuses its scalers between frames. For one thread."""

    def __init__(self) -> None:
        self._av = pyav()
        self._scaler = self._av.video.reformatter.VideoReformatter()
        kind = self._av.video.reformatter.Interpolation
        self._how = int(kind.BICUBIC | kind.ACCURATE_RND | kind.BITEXACT | kind.FULL_CHR_H_INT | kind.FULL_CHR_H_INP)

    def to_rgb(self, frame: Any) -> RgbFrame:
        """Convert a decoded frame to a new RGB array [H, W, 3]: uint8 for 8-bit streams, else uint16."""
        kind, bits = frame.format, frame.format.components[0].bits
        frame.colorspace = likely_matrix(frame.colorspace, frame.height)
        if kind.is_rgb or (bits == 8 and not _is_grey(kind)):
            made: RgbFrame = self._scaled(frame, "rgb24" if bits == 8 else "rgb48le").to_ndarray()
            return made
        is_full = frame.color_range == FULL_RANGE
        planes = _read_planes(self._scaled(frame, _planar(kind, bits), frame.color_range))
        picture = levels.to_rgb16(planes, bits, frame.colorspace, is_full_range=is_full)
        return picture if bits > 8 else ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)

    def from_rgb(self, picture: RgbFrame, encoding: Encoding) -> Any:
        """Convert an RGB array [H, W, 3], uint8 or uint16, to a frame for the encoder."""
        height, width = encoding.size
        kind = self._av.VideoFormat(encoding.pixel_format, width, height)
        bits = kind.components[0].bits
        matrix = likely_matrix(encoding.matrix, height)
        level = FULL_RANGE if encoding.is_full_range else LIMITED_RANGE
        if kind.is_rgb or (picture.dtype == np.uint8 and bits == 8 and not _is_grey(kind)):
            frame = self._av.VideoFrame.from_ndarray(
                picture, format="rgb24" if picture.dtype == np.uint8 else "rgb48le"
            )
        else:
            planes = levels.from_rgb(picture, bits, matrix, is_full_range=level == FULL_RANGE, is_grey=_is_grey(kind))
            frame = self._av.VideoFrame(width, height, _planar(kind, bits))
            _write_planes(frame, planes)
            frame.color_range = level
        # The scaler copies this to the frame it makes, and reads it there.
        frame.colorspace = matrix
        made = self._scaled(frame, encoding.pixel_format, level)
        made.colorspace, made.color_range = encoding.matrix, 0 if encoding.is_full_range is None else level
        made.color_primaries, made.color_trc = encoding.primaries, encoding.transfer
        return made

    def _scaled(self, frame: Any, pixel_format: str, level: int | None = None) -> Any:
        return self._scaler.reformat(
            frame, format=pixel_format, interpolation=self._how, dst_color_range=level, threads=1
        )


def _is_grey(kind: Any) -> bool:
    return len(kind.components) == 1 and not kind.is_rgb and not kind.has_palette


def _planar(kind: Any, bits: int) -> str:
    """Return the planar format without chroma subsampling, for that many bits."""
    plain = "gray" if _is_grey(kind) else "yuv444p"
    return plain if bits == 8 else f"{plain}{bits}le"


def _read_planes(frame: Any) -> levels.Planes:
    dtype = np.dtype("<u2" if frame.format.components[0].bits > 8 else np.uint8)
    rows = [np.frombuffer(plane, dtype).reshape(frame.height, -1)[:, : frame.width] for plane in frame.planes]
    return np.stack(rows)


def _write_planes(frame: Any, planes: levels.Planes) -> None:
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, values.dtype).reshape(frame.height, -1)
        rows[:, : frame.width] = values
