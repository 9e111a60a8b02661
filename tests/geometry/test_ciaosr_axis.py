"""CiaoSR's axis tables against its corner rule in eager PyTorch on the whole two-dimensional grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eager_reference import make_coord
from hiif_deploy.errors import ScaleError
from hiif_deploy.geometry.ciaosr_axis import ciaosr_axis

SIZES = [((5, 7), (11, 16)), ((6, 4), (24, 16)), ((3, 9), (9, 27)), ((16, 10), (25, 40)), ((2, 3), (24, 31))]


def eager(source: tuple[int, int], target: tuple[int, int], side: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) [H, W, 2] of the tap, and query − tap in half source pixels; side (0, 0) is the nearest pixel."""
    coord = make_coord(target)
    moved = coord.clone()
    for axis, n in enumerate(source):
        cell = torch.tensor(2 / target[axis])
        shift = 1 / ((n - 1) / (1 - cell))
        if side[axis]:
            moved[..., axis] += side[axis] * shift + 1e-6
    moved = moved.clamp(-1 + 1e-6, 1 - 1e-6) if any(side) else moved
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in source), indexing="ij")
    maps = torch.cat([torch.stack([rows, columns]), make_coord(source).permute(2, 0, 1)])
    found = torch.nn.functional.grid_sample(maps[None], moved.flip(-1)[None], mode="nearest", align_corners=False)[0]
    return found[:2].permute(1, 2, 0), (coord - found[2:].permute(1, 2, 0)) * torch.tensor(source).float()


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_taps_and_distances_equal_the_rule_on_the_whole_grid(
    source: tuple[int, int], target: tuple[int, int], corner: tuple[int, int]
) -> None:
    rows, columns = (ciaosr_axis(n, m) for n, m in zip(source, target, strict=True))
    pixel, relative = eager(source, target, (2 * corner[0] - 1, 2 * corner[1] - 1))
    for axis, table in enumerate((rows, columns)):
        expected = pixel.select(1 - axis, 0)[:, axis]
        np.testing.assert_array_equal(table.taps[corner[axis]], expected.numpy())
        np.testing.assert_array_equal(table.relative[corner[axis]], relative.select(1 - axis, 0)[:, axis].numpy())


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_the_nearest_pixel_is_what_grid_sample_takes(source: tuple[int, int], target: tuple[int, int]) -> None:
    pixel, _ = eager(source, target, (0, 0))
    for axis, (n, m) in enumerate(zip(source, target, strict=True)):
        np.testing.assert_array_equal(ciaosr_axis(n, m).nearest, pixel.select(1 - axis, 0)[:, axis].numpy())


def test_at_three_times_the_size_a_query_on_a_pixel_has_that_pixel_between_its_taps() -> None:
    axis = ciaosr_axis(6, 18)
    assert (axis.taps[:, 4] - axis.nearest[4]).tolist() == [-1, 1]


def test_at_twice_the_size_the_taps_are_those_of_half_a_pixel() -> None:
    axis = ciaosr_axis(6, 12)
    assert set((axis.taps[1] - axis.taps[0]).tolist()) == {0, 1}


@pytest.mark.parametrize("source", [2, 3, 5, 30])
@pytest.mark.parametrize("scale", [1, 1.4, 2, 3, 4, 12, 30])
def test_a_tap_is_at_most_one_pixel_from_the_nearest_one(source: int, scale: float) -> None:
    axis = ciaosr_axis(source, round(source * scale))
    assert np.abs(axis.taps - axis.nearest).max() <= 1


@pytest.mark.parametrize("target", [1, 2, 3, 8])
def test_on_an_axis_of_one_pixel_every_tap_is_that_pixel(target: int) -> None:
    axis = ciaosr_axis(1, target)
    assert not axis.taps.any()
    assert not axis.nearest.any()
    np.testing.assert_allclose(axis.relative[0], (2 * np.arange(target) + 1) / target - 1, atol=1e-6)


def test_a_window_is_a_slice_of_the_whole_axis() -> None:
    whole, part = ciaosr_axis(7, 23), ciaosr_axis(7, 23, (4, 15))
    np.testing.assert_array_equal(part.taps, whole.taps[:, 4:15])
    np.testing.assert_array_equal(part.nearest, whole.nearest[4:15])
    np.testing.assert_array_equal(part.relative, whole.relative[:, 4:15])


def test_an_axis_that_would_shrink_is_refused() -> None:
    with pytest.raises(ScaleError, match=r"scale 0\.5 is below 1"):
        ciaosr_axis(8, 4)
