"""Frames become unit arrays and come back; what is no frame is told why."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.errors import FrameError
from hiif_deploy.pixels import FrameFormat, check_frame, from_unit, to_unit, working_frame

DTYPES = ("uint8", "uint16", "float16", "float32", "float64")
SHAPES = ((5, 7), (5, 7, 1), (5, 7, 3))


def frame_of(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    random = np.random.default_rng(3)
    if dtype.startswith("uint"):
        return random.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    return random.random(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_frame_comes_back_as_it_was(dtype: str, shape: tuple[int, ...]) -> None:
    frame = frame_of(dtype, shape)
    check_frame(frame)
    back = from_unit(to_unit(frame), FrameFormat.of(frame))
    assert (back.dtype, back.shape) == (frame.dtype, frame.shape)
    np.testing.assert_array_equal(back, frame.astype(np.float32) if dtype == "float64" else frame)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_integer_value_survives(dtype: str) -> None:
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype)[None]
    np.testing.assert_array_equal(from_unit(to_unit(values), FrameFormat.of(values)), values)


def test_integers_are_divided_by_their_largest_value_with_correct_rounding() -> None:
    values = np.arange(256, dtype=np.uint8)[None]
    exact = (np.arange(256) / 255).astype(np.float32)
    np.testing.assert_array_equal(to_unit(values)[0, :, 0], exact)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_unit_array_is_new_float32_rgb(shape: tuple[int, ...]) -> None:
    frame = frame_of("float32", shape)
    unit = to_unit(frame)
    assert (unit.dtype, unit.shape) == (np.dtype("float32"), (5, 7, 3))
    assert not np.shares_memory(unit, frame)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_working_frame_is_new_and_in_c_order(dtype: str, shape: tuple[int, ...]) -> None:
    frame = frame_of(dtype, shape)[::-1]
    working = working_frame(frame)
    assert (working.ndim, working.flags.c_contiguous) == (3, True)
    assert not np.shares_memory(working, frame)
    np.testing.assert_array_equal(working.reshape(shape), frame.astype(working.dtype))


def test_grey_fills_the_three_channels() -> None:
    unit = to_unit(frame_of("uint8", (5, 7)))
    assert (unit == unit[..., :1]).all()


def test_a_block_of_rows_converts_as_the_whole() -> None:
    frame = frame_of("uint16", (9, 7, 3))
    np.testing.assert_array_equal(to_unit(frame[3:6]), to_unit(frame)[3:6])


def test_values_outside_the_range_are_clamped() -> None:
    unit = np.array([[[-0.5, 0.5, 1.5]]], dtype=np.float32)
    assert from_unit(unit, FrameFormat(np.dtype("uint8"), 3)).tolist() == [[[0, 128, 255]]]
    assert from_unit(unit, FrameFormat(np.dtype("float32"), 3)).tolist() == [[[0, 0.5, 1]]]


def test_halves_round_to_even() -> None:
    unit = (np.array([[[0.5, 1.5, 2.5]]]) / 255).astype(np.float32)
    scaled = unit * np.float32(255)
    assert scaled.tolist() == [[[0.5, 1.5, 2.5]]]
    assert from_unit(unit, FrameFormat(np.dtype("uint8"), 3)).tolist() == [[[0, 2, 2]]]


def test_grey_is_the_luma_of_the_three_channels() -> None:
    colours = np.eye(3, dtype=np.float32)[None]
    grey = from_unit(colours, FrameFormat(np.dtype("float32"), None))
    np.testing.assert_allclose(grey, [[0.299, 0.587, 0.114]], atol=1e-7)


def test_from_unit_leaves_its_input_alone() -> None:
    unit = frame_of("float32", (5, 7, 3)) * np.float32(2) - np.float32(0.5)
    before = unit.copy()
    for channels in (None, 1, 3):
        for dtype in DTYPES:
            from_unit(unit, FrameFormat(np.dtype(dtype), channels))
    np.testing.assert_array_equal(unit, before)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([[0]], "frame is a list; expected a numpy array"),
        (
            np.zeros((4, 5, 4), np.uint8),
            "four channels; expected [H, W], [H, W, 1] or [H, W, 3]: split alpha",
        ),
        (np.zeros((3, 8, 9), np.uint8), "frame has shape (3, 8, 9), channels first"),
        (np.zeros((4, 5, 2), np.uint8), "frame has shape (4, 5, 2); expected [H, W], [H, W, 1] or [H, W, 3]"),
        (np.zeros(4, np.uint8), "frame has shape (4,); expected [H, W]"),
        (np.zeros((1, 4, 5, 3), np.uint8), "frame has shape (1, 4, 5, 3); expected [H, W]"),
        (np.zeros((0, 5, 3), np.uint8), "frame has shape (0, 5, 3), which holds no pixels"),
        (np.zeros((5, 0), np.float32), "frame has shape (5, 0), which holds no pixels"),
        (np.zeros((4, 5), np.int64), "frame has dtype int64; expected one of uint8, uint16, float16"),
        (np.zeros((4, 5), ">u2"), "frame has dtype >u2; expected one of"),
        (np.zeros((4, 5), bool), "frame has dtype bool; expected one of"),
        (np.full((4, 5), 255.0), "frame of float64 reaches 255; expected values in [0, 1]: divide by 255"),
        (np.full((4, 5), -0.5, np.float32), "frame of float32 reaches -0.5; expected values in [0, 1]"),
    ],
)
def test_what_is_no_frame_is_refused_with_the_reason(frame: object, message: str) -> None:
    with pytest.raises(FrameError, match=re.escape(message)):
        check_frame(frame)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_is_named(value: float) -> None:
    frame = np.zeros((4, 5, 3), dtype=np.float32)
    frame[2, 1, 0] = frame[3, 4, 2] = value
    with pytest.raises(FrameError, match=re.escape(f"frame is {np.float32(value)} at (2, 1, 0)")):
        check_frame(frame)
