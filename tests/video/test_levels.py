"""Luma and chroma become colours and come back, exact to half a step of their bits."""

from __future__ import annotations

import numpy as np
import pytest

from hiif_deploy.errors import VideoError
from hiif_deploy.video import levels


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("matrix", levels.WEIGHTS)
@pytest.mark.parametrize("bits", [10, 12])
def test_colours_come_back_within_a_step_of_their_bits(bits: int, matrix: int, is_full: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 1 << 16, (40, 50, 3), dtype=np.uint16)
    planes = levels.from_rgb(picture, bits, matrix, is_full_range=is_full)
    again = levels.to_rgb16(planes, bits, matrix, is_full_range=is_full)
    # Half a step of luma and twice half a step of chroma, as wide as they are in colours.
    step = 65535 / ((1 << bits) - 1 if is_full else 219 << (bits - 8))
    assert abs(again.astype(int) - picture).max() < 2 * step


def test_red_has_the_levels_of_the_standard() -> None:
    """BT.2020 of 10 bits, limited range: 64 + 876 · 0.2627, 512 − 896 · 0.2627 / 1.8814, 512 + 896 / 2."""
    red = np.full((2, 2, 3), (65535, 0, 0), dtype=np.uint16)
    planes = levels.from_rgb(red, 10, 9, is_full_range=False)
    assert planes[:, 0, 0].tolist() == [294, 387, 960]


def test_an_unknown_matrix_is_named() -> None:
    with pytest.raises(VideoError, match=r"colour matrix 8 of H\.273"):
        levels.to_rgb16(np.zeros((3, 2, 2), np.uint16), 10, 8, is_full_range=False)
