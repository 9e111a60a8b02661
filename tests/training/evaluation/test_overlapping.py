"""Overlapping tiles: where they lie, what their average is, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.errors import OptionError
from hiif_training.evaluation.overlapping import Tiles, upscale_overlapping

FRAME = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)


def repeated(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Every pixel repeated: the same whatever lies around it."""
    factor = size[0] // frame.shape[0]
    return np.repeat(np.repeat(frame, factor, 0), factor, 1).astype(np.float32)


def mean(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """The tile's mean everywhere: another picture for every cut."""
    return np.full((*size, 3), frame.mean(), dtype=np.float32)


@pytest.mark.parametrize(
    ("size", "side", "starts"), [(192, 192, [0]), (193, 192, [0, 1]), (400, 192, [0, 160, 208]), (5, 5, [0])]
)
def test_the_last_tile_ends_where_the_picture_does(size: int, side: int, starts: list[int]) -> None:
    assert Tiles(192, 32).starts(size, side) == starts


@pytest.mark.parametrize("tiles", [Tiles(4, 1), Tiles(6, 3), Tiles(64, 32)])
def test_an_enlargement_that_sees_one_pixel_does_not_notice_the_tiles(tiles: Tiles) -> None:
    found = upscale_overlapping(repeated, FRAME, (20, 26), tiles)
    np.testing.assert_array_equal(found, repeated(FRAME, (20, 26)))


def test_where_tiles_overlap_their_answers_are_averaged() -> None:
    frame = FRAME[:4, :6]
    found = upscale_overlapping(mean, frame, (8, 12), Tiles(4, 2))
    left, right = frame[:, :4].mean(), frame[:, 2:].mean()
    np.testing.assert_allclose(found[:, :4], left, rtol=1e-6)
    np.testing.assert_allclose(found[:, 4:8], (left + right) / 2, rtol=1e-6)
    np.testing.assert_allclose(found[:, 8:], right, rtol=1e-6)


def test_a_picture_smaller_than_a_tile_is_cut_into_squares_of_its_shorter_side() -> None:
    seen = []

    def note(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
        seen.append(frame.shape[:2])
        return repeated(frame, size)

    upscale_overlapping(note, FRAME, (20, 26), Tiles(64, 8))
    assert set(seen) == {(10, 10)}


@pytest.mark.parametrize("size", [(25, 32), (20, 39)])
def test_other_than_whole_factors_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(OptionError, match="tiles are upscaled by whole factors only"):
        upscale_overlapping(repeated, FRAME, size, Tiles(4, 1))


@pytest.mark.parametrize(("side", "overlap"), [(4, 4), (4, -1)])
def test_an_overlap_must_be_smaller_than_a_tile(side: int, overlap: int) -> None:
    with pytest.raises(OptionError, match="expected less overlap"):
        Tiles(side, overlap)
