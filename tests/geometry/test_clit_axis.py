"""CLIT's axis tables against grid_sample on the whole two-dimensional grid, and an enlargement's stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eager_reference import make_coord
from hiif_deploy.errors import ScaleError
from hiif_deploy.geometry.clit_axis import clit_axis, stage_sizes

SIZES = [((5, 7), (11, 16)), ((6, 4), (24, 16)), ((3, 9), (9, 27)), ((16, 10), (25, 40)), ((1, 2), (3, 2))]


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("offset", [(-3, 2), (0, 0), (1, -1)])
def test_tokens_are_whole_pixels_around_what_grid_sample_takes_as_nearest(
    source: tuple[int, int], target: tuple[int, int], offset: tuple[int, int]
) -> None:
    coord = make_coord(target)
    centres = make_coord(source).permute(2, 0, 1)[None]
    nearest = torch.nn.functional.grid_sample(centres, coord.flip(-1)[None], mode="nearest", align_corners=False)[0]
    size = torch.tensor(source).float()
    token = nearest.permute(1, 2, 0) + torch.tensor(offset) * (2 / size)
    pixels = torch.arange(source[0] * source[1]).view(1, 1, *source).float() + 1
    found = torch.nn.functional.grid_sample(pixels, token.flip(-1)[None], mode="nearest", align_corners=False)[0, 0]
    rows, columns = (clit_axis(n, m) for n, m in zip(source, target, strict=True))
    a, b = offset[0] + 3, offset[1] + 3
    index = rows.tokens[a][:, None] * source[1] + columns.tokens[b]
    inside = rows.inside[a][:, None] * columns.inside[b]
    # A token beyond the picture is sampled as zero.
    np.testing.assert_array_equal((index + 1) * inside, found.numpy())
    relative = (coord - token) * size
    np.testing.assert_array_equal(rows.relative[a], relative[:, 0, 0].numpy())
    np.testing.assert_array_equal(columns.relative[b], relative[0, :, 1].numpy())


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_the_question_is_a_bilinear_sample_with_zeros_beyond_the_picture(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    maps = torch.rand(1, 1, *source, generator=torch.Generator().manual_seed(0)) + 1
    grid = make_coord(target).flip(-1)[None]
    expected = torch.nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    rows, columns = (clit_axis(n, m) for n, m in zip(source, target, strict=True))
    found = np.zeros(target)
    for a in (0, 1):
        for b in (0, 1):
            taps = maps[0, 0].numpy()[rows.taps[a][:, None], columns.taps[b]]
            found += taps * rows.weight[a][:, None] * columns.weight[b]
    # Weights of float32 positions up to 16 carry 16 · 2⁻²⁴ each.
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)


def test_the_outermost_questions_are_mixed_with_nothing() -> None:
    axis = clit_axis(4, 16)
    np.testing.assert_allclose(axis.weight.sum(0)[[0, 1, 2, 15]], [0.625, 0.875, 1.0, 0.625])


def test_beyond_the_picture_a_token_keeps_its_place_but_not_its_pixel() -> None:
    axis = clit_axis(5, 10)
    np.testing.assert_array_equal(axis.tokens[:, 0], [0, 0, 0, 0, 1, 2, 3])
    np.testing.assert_array_equal(axis.inside[:, 0], [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(axis.relative[:, 0], [5.5, 3.5, 1.5, -0.5, -2.5, -4.5, -6.5], atol=1e-5)


def test_halves_go_to_the_even_pixel() -> None:
    # ×2.5 on 4 pixels: query 2 lies at pixel 0.5 and query 7 at 2.5, but for float32's rounding.
    position = ((np.float32(-1 + 0.1) + np.float32(0.2) * np.float32([2, 7]) + 1) * 4 - 1) / 2
    axis = clit_axis(4, 10, reach=0)
    np.testing.assert_array_equal(axis.tokens[0, [2, 7]], np.rint(position.astype(np.float32)))


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_an_axis_reaches_as_far_as_requested(reach: int) -> None:
    assert clit_axis(9, 20, reach=reach).tokens.shape == (2 * reach + 1, 20)


def test_a_window_is_a_slice_of_the_whole_axis() -> None:
    whole, part = clit_axis(7, 23), clit_axis(7, 23, (4, 15))
    for name in ("tokens", "inside", "relative", "taps", "weight"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:, 4:15])


@pytest.mark.parametrize(
    ("scale", "factors"),
    [
        (1, [1]), (2.5, [1]), (4, [1]), (4.5, [1, 4]), (6, [1, 4]), (12, [1, 4]), (16, [1, 4, 16]),
        (18, [1, 4, 16]), (24, [1, 4, 16]), (30, [1, 4, 16]), (64, [1, 4, 16, 64]),
    ],
)  # fmt: skip
def test_stages_follow_the_published_factors(scale: float, factors: list[int]) -> None:
    source = (10, 14)
    target = (round(10 * scale), round(14 * scale))
    assert stage_sizes(source, target) == [(10 * f, 14 * f) for f in factors]


def test_the_smaller_scale_decides_how_many_stages_there_are() -> None:
    assert stage_sizes((10, 10), (200, 40)) == [(10, 10)]
    assert stage_sizes((10, 10), (200, 41)) == [(10, 10), (40, 40)]


def test_an_empty_picture_has_no_stages() -> None:
    with pytest.raises(ScaleError, match="0x4 pixels"):
        stage_sizes((4, 0), (8, 8))
