"""Deep and grey streams: white is white, and every level comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("av", reason="needs PyAV")

import av

from hiif_deploy.video.convert import Converter
from hiif_deploy.video.task import Encoding

HEIGHT, WIDTH = 6, 64
FORMATS = {
    "yuv420p": 8, "yuv444p": 8, "gray": 8, "yuv420p10le": 10, "yuv444p10le": 10, "p010le": 10, "gray10le": 10,
    "yuv422p12le": 12, "yuv444p14le": 14, "yuv420p16le": 16,
}  # fmt: skip
"""Pixel format → bits."""


def encoding(pixel_format: str, matrix: int, is_full: bool, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Encoding:
    return Encoding("ffv1", size, pixel_format, (25, 1), (1, 1000), matrix=matrix, is_full_range=is_full)


def samples(plane: Any, height: int, width: int, shift: int = 0) -> NDArray[Any]:
    """A view of a plane's values."""
    kind: Any = np.uint8 if plane.line_size < 2 * plane.width else np.uint16
    rows: NDArray[Any] = np.frombuffer(plane, dtype=kind).reshape(plane.height, -1)[:height, :width]
    return rows >> shift if shift else rows


def grey_ramp(pixel_format: str, is_full: bool) -> tuple[Any, NDArray[Any]]:
    """A frame from black to white, and its luma."""
    bits = FORMATS[pixel_format]
    unit, shift = 1 << (bits - 8), 6 if pixel_format == "p010le" else 0
    black, white = (0, (1 << bits) - 1) if is_full else (16 * unit, 235 * unit)
    ramp: NDArray[Any] = np.linspace(black, white, WIDTH).round().astype(np.uint16 if bits > 8 else np.uint8)
    frame: Any = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
    for number, plane in enumerate(frame.planes):
        rows: NDArray[Any] = np.frombuffer(plane, dtype=ramp.dtype).reshape(plane.height, -1)
        rows[:] = 128 * unit << shift
        if number == 0:
            rows[:, :WIDTH] = ramp << shift
    frame.colorspace, frame.color_range = 9 if bits > 8 else 1, 2 if is_full else 1
    return frame, ramp


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_white_is_white_and_every_level_comes_back(pixel_format: str, is_full: bool) -> None:
    frame, ramp = grey_ramp(pixel_format, is_full)
    matrix = frame.colorspace
    converter = Converter()
    picture = converter.to_rgb(frame)
    top = np.iinfo(picture.dtype).max
    assert picture.dtype == (np.uint16 if FORMATS[pixel_format] > 8 else np.uint8)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, -1].tolist() == [top, top, top]
    made = converter.from_rgb(picture, encoding(pixel_format, matrix, is_full))
    shift = 6 if pixel_format == "p010le" else 0
    assert np.array_equal(samples(made.planes[0], HEIGHT, WIDTH, shift)[0], ramp)
    assert (made.format.name, made.colorspace, made.color_range) == (pixel_format, matrix, 2 if is_full else 1)


def test_a_picture_of_16_bits_becomes_a_stream_of_8() -> None:
    ramp = np.repeat(np.linspace(0, 65535, WIDTH).astype(np.uint16)[None, :, None], HEIGHT, axis=0).repeat(3, axis=2)
    made = Converter().from_rgb(ramp, encoding("yuv420p", 1, is_full=False))
    expected = np.rint(16 + 219 * (ramp[0, :, 0] / 65535))
    assert np.array_equal(samples(made.planes[0], HEIGHT, WIDTH)[0], expected)


def test_odd_sides_keep_their_size() -> None:
    picture = np.random.default_rng(0).integers(0, 1 << 16, (23, 31, 3), dtype=np.uint16)
    frame = Converter().from_rgb(picture, encoding("yuv444p10le", 9, is_full=False, size=(23, 31)))
    assert Converter().to_rgb(frame).shape == (23, 31, 3)
