"""Transparent pictures enlarge without halos."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.errors import FrameError, ScaleError
from hiif_deploy.images.alpha import fill_under_alpha, upscale_alpha

RED, GREEN = (230, 20, 30), (0, 255, 0)


def disc(dtype: type = np.uint8) -> tuple[NDArray[Any], NDArray[Any]]:
    """An opaque red disc with a soft edge on transparent green."""
    rows, columns = np.mgrid[:40, :48]
    cover = np.clip(14.5 - np.hypot(rows - 20, columns - 24), 0, 1)
    unit = np.iinfo(dtype).max // 255
    pixels = np.where(cover[..., None] > 0, RED, GREEN) * unit
    return pixels.astype(dtype), np.rint(cover * 255 * unit).astype(dtype)


def composite(pixels: NDArray[Any], alpha: NDArray[Any], background: float) -> NDArray[np.float64]:
    cover = alpha[..., None] / 255
    return pixels * cover + background * (1 - cover)


def enlarged(pixels: NDArray[Any], scale: int = 4) -> NDArray[Any]:
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)


def green_excess(pixels: NDArray[Any], alpha: NDArray[Any], background: float) -> float:
    """How far green rises above what red on that background can have."""
    picture = composite(enlarged(pixels), upscale_alpha(alpha, (160, 192)), background)
    return float((picture[..., 1] - picture[..., 2]).max())


@pytest.mark.parametrize("background", [0, 255])
def test_a_red_disc_on_transparent_green_gets_no_green_halo(background: float) -> None:
    pixels, alpha = disc()
    assert green_excess(pixels, alpha, background) > 40
    assert green_excess(fill_under_alpha(pixels, alpha), alpha, background) <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_only_hidden_pixels_are_filled_and_with_what_surrounds_them(dtype: type) -> None:
    pixels, alpha = disc(dtype)
    filled = fill_under_alpha(pixels, alpha)
    seen = alpha > np.iinfo(dtype).max / 32
    assert (filled.dtype, filled.shape) == (pixels.dtype, pixels.shape)
    np.testing.assert_array_equal(filled[seen], pixels[seen])
    expected = np.array(RED) * (np.iinfo(dtype).max // 255)
    assert np.abs(filled[~seen].astype(int) - expected).max() <= 1


def test_grey_is_filled_too() -> None:
    pixels, alpha = disc()
    filled = fill_under_alpha(pixels[..., 1], alpha)
    assert filled.shape == alpha.shape
    assert filled.max() <= RED[1] + 1


def test_a_single_visible_pixel_fills_a_large_picture() -> None:
    pixels = np.zeros((301, 77, 3), np.uint8)
    alpha = np.zeros((301, 77), np.uint8)
    pixels[300, 3], alpha[300, 3] = RED, 255
    assert (fill_under_alpha(pixels, alpha) == RED).all()


def test_nothing_to_fill_or_to_fill_from_gives_the_same_array() -> None:
    pixels, alpha = disc()
    assert fill_under_alpha(pixels, np.full_like(alpha, 255)) is pixels
    assert fill_under_alpha(pixels, np.zeros_like(alpha)) is pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("share", [0, 1])
def test_uniform_alpha_stays_exact(dtype: type, share: int) -> None:
    value = share * np.iinfo(dtype).max
    alpha = upscale_alpha(np.full((7, 9), value, dtype), (31, 50))
    assert alpha.dtype == dtype
    assert alpha.shape == (31, 50)
    assert (alpha == value).all()


def test_overshoot_of_the_cubic_is_clamped() -> None:
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 255
    row = upscale_alpha(alpha, (32, 32))[16]
    assert (row[:12] == 0).all()
    assert (row[20:] == 255).all()
    assert (np.diff(row.astype(int)) >= 0).all()


def test_alpha_of_another_shape_is_refused() -> None:
    with pytest.raises(FrameError, match=re.escape("alpha is uint8 (4, 5, 1); expected uint8 or uint16")):
        upscale_alpha(np.zeros((4, 5, 1), np.uint8), (8, 10))


def test_alpha_that_does_not_fit_the_pixels_is_refused() -> None:
    with pytest.raises(FrameError, match=re.escape("alpha has shape (4, 5); expected (6, 5)")):
        fill_under_alpha(np.zeros((6, 5, 3), np.uint8), np.zeros((4, 5), np.uint8))


def test_an_empty_size_is_refused() -> None:
    with pytest.raises(ScaleError, match="0×10 pixels was requested: both sizes must be at least 1"):
        upscale_alpha(np.zeros((4, 5), np.uint8), (0, 10))
