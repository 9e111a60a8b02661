"""Queries as tensors: equal to the published corner rule, the same whichever way they are asked for."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from hiif_deploy.errors import ScaleError
from hiif_training.models.implicit import gather, skip
from hiif_training.queries.axis import Queries, area_weights, grid_queries, scattered_queries

SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (3, 5)),
    ((5, 7), (5, 7)),
    ((5, 7), (10, 14)),
    ((6, 4), (18, 12)),
    ((7, 5), (23, 9)),
    ((33, 2), (40, 24)),
]
"""(source, target)."""
FIELDS = [field.name for field in fields(Queries)]


def centres(count: int) -> Tensor:
    return 2 / count * torch.arange(count).float() + (-1 + 1 / count)


def coordinates(size: tuple[int, int]) -> Tensor:
    """[h, w, 2] pixel centres (row, column)."""
    return torch.stack(torch.meshgrid(centres(size[0]), centres(size[1]), indexing="ij"), dim=-1)


def nearest(picture: Tensor, position: Tensor) -> Tensor:
    """[C, h, w] at [H, W, 2] → [H, W, C]."""
    flipped = position.flip(-1)[None]
    return grid_sample(picture[None], flipped, mode="nearest", align_corners=False)[0].permute(1, 2, 0)


def published_corners(source: tuple[int, int], target: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Indices and weights [4, N] as the public code finds them, with grid_sample (design/model.md C5)."""
    position = coordinates(target)
    pixels = torch.arange(source[0] * source[1]).float().reshape(1, *source)
    index, area = [], []
    for vertical, horizontal in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        shift = torch.tensor([vertical / source[0] + 1e-6, horizontal / source[1] + 1e-6])
        corner = (position + shift).clamp(-1 + 1e-6, 1 - 1e-6)
        index.append(nearest(pixels, corner).flatten().long())
        centre = nearest(coordinates(source).permute(2, 0, 1), corner)
        relative = (position - centre) * (torch.tensor(source) / 2)
        area.append((relative[..., 0] * relative[..., 1]).abs().flatten() + 1e-9)
    total = torch.stack(area).sum(0)
    return torch.stack(index), torch.stack(area[::-1]) / total


def equal(first: Queries, second: Queries) -> bool:
    return all(getattr(first, name).equal(getattr(second, name)) for name in FIELDS)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_corners_and_weights_are_those_of_the_public_code(source: tuple[int, int], target: tuple[int, int]) -> None:
    asked = grid_queries(source, target)
    index, weight = published_corners(source, target)
    assert asked.index[0].equal(index)
    torch.testing.assert_close(asked.weight[0], weight, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_the_skip_is_a_bilinear_sample_with_a_replicated_border(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    image = torch.rand(1, 3, *source)
    expected = grid_sample(
        image, coordinates(target).flip(-1)[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    found = skip(image, grid_queries(source, target)).reshape(*target, 3).permute(2, 0, 1)[None]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_weights_sum_to_one_over_the_corners(source: tuple[int, int], target: tuple[int, int]) -> None:
    asked = grid_queries(source, target)
    for weight in (asked.weight, asked.skip_weight):
        assert weight.min() >= 0
        torch.testing.assert_close(weight.sum(1), torch.ones(1, target[0] * target[1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("levels", [2, 6, 9])
@pytest.mark.parametrize("bits", ["reference", "exact"])
def test_every_tensor_has_its_documented_shape_and_type(levels: int, bits: str) -> None:
    asked = grid_queries((5, 7), (11, 16), levels=levels, bits=bits)  # type: ignore[arg-type]
    shapes = {name: (tuple(getattr(asked, name).shape), getattr(asked, name).dtype) for name in FIELDS}
    assert shapes == {
        "index": ((1, 4, 176), torch.int64),
        "weight": ((1, 4, 176), torch.float32),
        "relative": ((1, 4, 176, 2), torch.float32),
        "bits": ((1, 176, levels, 2), torch.float32),
        "local": ((1, 176, 2), torch.float32),
        "cell": ((1, 2), torch.float32),
        "skip_index": ((1, 4, 176), torch.int64),
        "skip_weight": ((1, 4, 176), torch.float32),
    }
    assert set(asked.bits.flatten().tolist()) == {0.0, 1.0}


def test_rows_come_before_columns() -> None:
    asked = grid_queries((4, 4), (8, 20), bits="exact")
    rows, columns = asked.local.reshape(8, 20, 2).unbind(-1)
    assert (rows == rows[:, :1]).all()
    assert (columns == columns[:1]).all()
    assert len(set(rows.flatten().tolist())) == 2  # ×2 has two phases, ×5 has five
    assert len(set(columns.flatten().tolist())) == 5
    torch.testing.assert_close(asked.cell, torch.tensor([[1.0, 0.4]]))


def test_bits_are_the_binary_digits_of_the_local_position() -> None:
    asked = grid_queries((5, 7), (23, 31), levels=12, bits="exact")
    powers = 0.5 ** torch.arange(1, 13).float()
    value = (asked.bits * powers[:, None]).sum(2)
    assert (asked.local - value).min() >= -1e-7
    assert (asked.local - value).max() < 2**-12


@pytest.mark.parametrize("bits", ["reference", "exact"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_scattered_queries_are_those_of_the_grid(source: tuple[int, int], target: tuple[int, int], bits: str) -> None:
    grid = grid_queries(source, target, bits=bits)  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).permutation(target[0] * target[1])[: max(1, target[1])]
    found = scattered_queries(source, target, pixels, bits=bits)  # type: ignore[arg-type]
    for name in ("index", "weight", "skip_index", "skip_weight"):
        assert getattr(found, name).equal(getattr(grid, name)[:, :, pixels]), name
    for name in ("bits", "local"):
        assert getattr(found, name).equal(getattr(grid, name)[:, pixels]), name
    assert found.cell.equal(grid.cell)


@pytest.mark.parametrize("rows", [slice(0, 3), slice(4, 9), slice(10, None)])
def test_a_slice_of_rows_is_that_part_of_the_grid(rows: slice) -> None:
    source, target = (5, 7), (11, 16)
    pixels = np.arange(11 * 16).reshape(target)[rows].flatten()
    assert equal(grid_queries(source, target, rows=rows), scattered_queries(source, target, pixels))


def test_pictures_are_concatenated_in_order() -> None:
    pixels = np.arange(20)
    parts = [scattered_queries((5, 7), size, pixels) for size in ((11, 16), (5, 7), (20, 14))]
    joined = Queries.concatenate(parts)
    for n, part in enumerate(parts):
        assert equal(Queries(*(getattr(joined, name)[n : n + 1] for name in FIELDS)), part)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_to_changes_the_floating_tensors_only(dtype: torch.dtype) -> None:
    asked = grid_queries((5, 7), (11, 16))
    moved = asked.to(dtype=dtype)
    for name in FIELDS:
        before, after = getattr(asked, name), getattr(moved, name)
        assert after.dtype == (dtype if before.is_floating_point() else torch.int64), name
        assert after.equal(before.to(after.dtype)), name


def test_to_without_arguments_changes_nothing() -> None:
    asked = grid_queries((5, 7), (11, 16))
    assert equal(asked.to(), asked)


def column(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)[:, None]


def test_each_corner_weighs_the_area_to_the_opposite_one() -> None:
    weight = area_weights(column(0.25, 0.75), column(0.5, 0.5))
    np.testing.assert_allclose(weight[:, 0], [0.375, 0.375, 0.125, 0.125], atol=1e-6)


def test_a_query_on_a_pixel_centre_has_finite_weights() -> None:
    weight = area_weights(column(0, 0), column(0, 0))
    np.testing.assert_array_equal(weight[:, 0], [0.25] * 4)


def test_gather_answers_the_asked_pixels_of_each_picture() -> None:
    maps = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).float()
    index = torch.tensor([[[0, 19], [7, 7]], [[3, 1], [5, 18]]])
    found = gather(maps, index)
    assert found.shape == (2, 2, 2, 3)
    for picture, corner, query in np.ndindex(2, 2, 2):
        row, column = divmod(int(index[picture, corner, query]), 5)
        assert found[picture, corner, query].equal(maps[picture, :, row, column])


def test_an_output_smaller_than_the_source_is_refused() -> None:
    with pytest.raises(ScaleError, match="output of 4 pixels for 5 input pixels"):
        grid_queries((5, 7), (4, 14))
