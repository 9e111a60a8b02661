"""Colours are converted with the stream's own matrix and range, in its own depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

import av

from hiif_deploy.video.convert import Converter, likely_matrix
from hiif_deploy.video.task import Encoding

WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""H.273's K_R and K_B of each matrix."""
SIZE = (48, 64)


def samples(rgb: tuple[float, float, float], matrix: int, is_full: bool, bits: int) -> tuple[float, float, float]:
    """Y, Cb, Cr of a colour by H.273's formulas, not rounded."""
    kr, kb = WEIGHTS[matrix]
    red, green, blue = rgb
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    blueness, redness = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    top, one, middle = 2**bits - 1, 2 ** (bits - 8), 2 ** (bits - 1)
    if is_full:
        return top * luma, top * blueness + middle, top * redness + middle
    return one * (219 * luma + 16), one * 224 * blueness + middle, one * 224 * redness + middle


def plain(values: tuple[float, float, float], pixel_format: str) -> Any:
    """A frame of one colour."""
    frame = av.VideoFrame(SIZE[1], SIZE[0], pixel_format)
    for plane, value in zip(frame.planes, values, strict=True):
        dtype = np.uint16 if pixel_format.endswith("le") else np.uint8
        plane.update(np.full(plane.buffer_size // dtype().itemsize, round(value), dtype).tobytes())
    return frame


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p12le"])
def test_both_ways_are_those_of_the_standard(matrix: int, levels: int, pixel_format: str) -> None:
    bits = 8 if pixel_format.endswith("p") else int(pixel_format[-4:-2])
    colour = (0.8, 0.35, 0.15)
    wanted = samples(colour, matrix, levels == 2, bits)
    frame = plain(wanted, pixel_format)
    frame.colorspace, frame.color_range = matrix, levels
    rgb = Converter().to_rgb(frame)
    assert rgb.dtype == (np.uint8 if bits == 8 else np.uint16)
    # Two steps of the depth: rounding of three samples, then of the colour.
    step = 1.0 / (2**bits - 1) * (1 if levels == 2 else 255 / 219)
    assert abs(rgb / np.iinfo(rgb.dtype).max - colour).max() < 2 * step
    encoding = Encoding(
        "ffv1", SIZE, pixel_format, (25, 1), (1, 25), matrix=matrix, is_full_range=levels == 2, primaries=9, transfer=16
    )
    made = Converter().from_rgb(rgb, encoding)
    assert (made.colorspace, made.color_range, made.color_primaries, made.color_trc) == (matrix, levels, 9, 16)
    dtype = np.uint16 if bits > 8 else np.uint8
    for plane, value in zip(made.planes, wanted, strict=True):
        found = np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
        assert abs(found - value).max() <= (2 if bits == 8 else 1)


def test_ten_bits_survive_both_ways() -> None:
    """A ramp of all 10-bit levels: through 8 bits three of four would be lost."""
    ramp = np.arange(64, 940, dtype=np.uint16)
    frame = av.VideoFrame(len(ramp), 2, "yuv444p10le")
    for plane, row in zip(frame.planes, (ramp, np.full_like(ramp, 512), np.full_like(ramp, 512)), strict=True):
        line = np.zeros(plane.line_size // 2, np.uint16)
        line[: len(ramp)] = row
        plane.update(np.tile(line, 2).tobytes())
    frame.colorspace, frame.color_range = 9, 1
    encoding = Encoding("ffv1", (2, len(ramp)), "yuv444p10le", (25, 1), (1, 25), matrix=9, is_full_range=False)
    made = Converter().from_rgb(Converter().to_rgb(frame), encoding)
    luma = np.frombuffer(made.planes[0], np.uint16).reshape(2, -1)[0, : len(ramp)]
    assert np.array_equal(luma, ramp)


@pytest.mark.parametrize(("height", "expected"), [(576, 6), (719, 6), (720, 1), (2160, 1)])
def test_untagged_streams_are_taken_as_players_take_them(height: int, expected: int) -> None:
    assert likely_matrix(2, height) == expected
    assert likely_matrix(9, height) == 9
