"""Training samples: decided by (seed, number), crops as promised, colours that belong to their queries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hiif_deploy.errors import ImageError, OptionError
from hiif_training.models.implicit import ModelTraits, skip
from hiif_training.pictures.degradations import Degradations
from hiif_training.queries.axis import Queries, axis_queries, grid_queries
from hiif_training.training.data import Crops, Sample, SampleLoader, StepBatchSampler, to_tensor_domain
from hiif_training.training.recipe import Recipe

Turn = tuple[bool, bool, bool]

PATCH = 8
TURNS: list[Turn] = [(a, b, c) for a, b, c in itertools.product((False, True), repeat=3)]
"""Whether a crop is flipped to the left, flipped upside down, transposed."""

Pixels = NDArray[np.uint8]


def positions(height: int, width: int, seed: int = 0) -> Pixels:
    """A picture whose red is its column and whose green is its row; blue is noise."""
    row, column = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 256, (height, width))
    return np.dstack([column, row, noise]).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n, (height, width) in enumerate([(60, 90), (200, 120), (40, 40)]):
        Image.fromarray(positions(height, width, seed=n)).save(tmp_path / f"{n}.png")
    return tmp_path


def crops(folder: Path, **recipe: Any) -> Crops:
    values = {"steps": 50, "batch": 2, "patch": PATCH, **recipe}
    return Crops(Recipe(model={}, data=(str(folder),), **values), partial(axis_queries, levels=6))


def turned(picture: NDArray[Any], turn: Turn) -> NDArray[Any]:
    left, upside_down, transposed = turn
    picture = np.flip(picture, 1) if left else picture
    picture = np.flip(picture, 0) if upside_down else picture
    return np.swapaxes(picture, 0, 1) if transposed else picture


def as_bytes(tensor: torch.Tensor) -> Pixels:
    return np.rint((tensor.numpy() + 1) * 127.5).astype(np.uint8)


def fingerprints(asked: Queries) -> list[tuple[float, ...]]:
    """Corners and local position, which together are different for each pixel of an output."""
    values = torch.cat([asked.index[0].T.double(), asked.local[0].double()], dim=1)
    return [tuple(row) for row in values.tolist()]


def asked_pixels(sample: Sample) -> tuple[int, NDArray[np.int64]]:
    """Side of the high-resolution crop, and which of its pixels (row-major) the queries ask for."""
    side = round(2 * PATCH / float(sample.queries.cell[0, 0]))
    grid = fingerprints(grid_queries((PATCH, PATCH), (side, side), bits="exact"))
    number = {value: n for n, value in enumerate(grid)}
    assert len(number) == side * side
    return side, np.array([number[value] for value in fingerprints(sample.queries)])


def located(sample: Sample) -> Iterator[tuple[Turn, int, int, int]]:
    """Every (turn, left, top, side) of a picture of `positions` that explains all the asked colours."""
    side, pixels = asked_pixels(sample)
    colours = as_bytes(sample.colours[0]).astype(int)
    places = np.moveaxis(np.mgrid[:side, :side], 0, -1)
    for turn in TURNS:
        rows, columns = turned(places, turn).reshape(-1, 2)[pixels].T
        left, top = colours[:, 0] - columns, colours[:, 1] - rows
        if (left == left[0]).all() and (top == top[0]).all():
            yield turn, int(left[0]), int(top[0]), side


def same(first: Sample, second: Sample) -> bool:
    return (
        first.image.equal(second.image)
        and first.colours.equal(second.colours)
        and first.queries.index.equal(second.queries.index)
        and first.queries.cell.equal(second.queries.cell)
    )


def test_a_sample_depends_only_on_the_seed_and_its_number(folder: Path) -> None:
    forwards, backwards = crops(folder), crops(folder)
    expected = [forwards[n] for n in range(8)]
    found = [backwards[n] for n in reversed(range(8))][::-1]
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


def test_a_sample_does_not_depend_on_the_length_of_the_run_nor_on_the_batch(folder: Path) -> None:
    assert same(crops(folder)[5], crops(folder, steps=7, batch=9)[5])


def test_global_random_state_has_no_influence(folder: Path) -> None:
    torch.manual_seed(1)
    first = crops(folder)[3]
    torch.manual_seed(2)
    np.random.default_rng().random()
    assert same(first, crops(folder)[3])


def test_other_numbers_and_other_seeds_give_other_samples(folder: Path) -> None:
    drawn = [crops(folder)[n] for n in range(4)] + [crops(folder, seed=1)[0]]
    assert not any(same(a, b) for a, b in itertools.combinations(drawn, 2))


def test_there_are_as_many_samples_as_the_run_draws(folder: Path) -> None:
    assert len(crops(folder, steps=50, batch=2)) == 100


def sources(data: Crops, sample: Sample) -> list[int]:
    """Numbers of the pictures whose bicubically reduced crop, at the only place possible, is the sample's."""
    ((turn, left, top, side),) = located(sample)
    image = as_bytes(sample.image[0]).transpose(1, 2, 0)
    found = []
    for n in range(len(data.pictures)):
        picture = data.pictures.get(n)
        assert picture is not None
        crop = picture.crop((left, top, left + side, top + side))
        low = crop.resize((PATCH, PATCH), Image.Resampling.BICUBIC)
        found += [n] if np.array_equal(image, turned(np.asarray(low), turn)) else []
    return found


@pytest.mark.parametrize("number", range(24))
def test_the_low_resolution_crop_is_the_bicubic_reduction_of_the_crop_that_the_colours_come_from(
    folder: Path, number: int
) -> None:
    data = crops(folder)
    assert len(sources(data, data[number])) == 1


def test_every_turn_and_every_picture_is_drawn(folder: Path) -> None:
    data = crops(folder)
    drawn = [data[n] for n in range(80)]
    assert {turn for sample in drawn for turn, *_ in located(sample)} == set(TURNS)
    assert {n for sample in drawn for n in sources(data, sample)} == {0, 1, 2}


@pytest.mark.parametrize("number", range(16))
def test_at_scale_one_the_asked_colours_are_the_nearest_pixels(folder: Path, number: int) -> None:
    sample = crops(folder, scale=(1.0, 1.0))[number]
    assert skip(sample.image, sample.queries).equal(sample.colours)


def test_at_scale_one_all_asked_colours_together_are_the_crop(folder: Path) -> None:
    sample = crops(folder, scale=(1.0, 1.0))[0]
    side, pixels = asked_pixels(sample)
    assert sorted(pixels.tolist()) == list(range(side * side))
    crop = torch.empty(side * side, 3)
    crop[torch.from_numpy(pixels)] = sample.colours[0]
    assert crop.reshape(side, side, 3).permute(2, 0, 1)[None].equal(sample.image)


def test_no_pixel_is_asked_twice(folder: Path) -> None:
    _, pixels = asked_pixels(crops(folder)[1])
    assert len(set(pixels.tolist())) == PATCH**2


def test_the_scale_is_drawn_from_the_whole_range(folder: Path) -> None:
    data = crops(folder, scale=(1.5, 3.0))
    sides = [asked_pixels(data[n])[0] for n in range(60)]
    assert min(sides) >= 12
    assert max(sides) <= 24
    assert min(sides) < 14
    assert max(sides) > 22


def test_a_small_picture_limits_the_scale(tmp_path: Path) -> None:
    Image.fromarray(positions(11, 30)).save(tmp_path / "small.png")
    data = crops(tmp_path, scale=(1.0, 4.0))
    assert {asked_pixels(data[n])[0] for n in range(30)} == {8, 9, 10, 11}


@pytest.mark.parametrize("number", range(6))
def test_shrinking_reduces_the_picture_before_the_colours_are_taken(tmp_path: Path, number: int) -> None:
    picture = Image.fromarray(positions(2 * PATCH, 2 * PATCH))
    picture.save(tmp_path / "picture.png")
    sample = crops(tmp_path, scale=(1.0, 1.0), shrink=(2.0, 2.0))[number]
    low = np.asarray(picture.resize((PATCH, PATCH), Image.Resampling.BICUBIC))
    image = as_bytes(sample.image[0]).transpose(1, 2, 0)
    assert any(np.array_equal(image, turned(low, turn)) for turn in TURNS)
    assert skip(sample.image, sample.queries).equal(sample.colours)


def test_degradations_change_the_input_and_nothing_else(folder: Path) -> None:
    plain, degraded, again = (crops(folder, degrade=Degradations(jpeg=jpeg)) for jpeg in (0.0, 1.0, 1.0))
    for n in range(4):
        assert same(degraded[n], again[n])
        assert not degraded[n].image.equal(plain[n].image)
        assert degraded[n].colours.equal(plain[n].colours)
        assert degraded[n].queries.index.equal(plain[n].queries.index)


def test_samples_are_concatenated_in_order(folder: Path) -> None:
    data = crops(folder)
    joined = Sample.concatenate([data[0], data[1]])
    assert joined.image.equal(torch.cat([data[0].image, data[1].image]))
    assert joined.colours.equal(torch.cat([data[0].colours, data[1].colours]))
    assert joined.queries.index.equal(torch.cat([data[0].queries.index, data[1].queries.index]))


def test_a_sample_has_its_documented_shapes(folder: Path) -> None:
    sample = crops(folder)[0]
    assert sample.image.shape == (1, 3, PATCH, PATCH)
    assert sample.colours.shape == (1, PATCH**2, 3)
    assert sample.queries.index.shape == (1, 4, PATCH**2)
    assert sample.image.dtype == sample.colours.dtype == torch.float32


def test_black_is_minus_one_and_white_is_plus_one() -> None:
    values = to_tensor_domain(np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8), ModelTraits())
    np.testing.assert_allclose(values, [[[-1] * 3, [1] * 3]], atol=1e-7)
    assert values.dtype == np.float32


def test_a_damaged_picture_is_named_and_another_is_drawn_in_its_place(folder: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:-900])
    drawn = [crops(folder)[n] for n in range(12)]
    met = [sample for sample in drawn if sample.damaged]
    assert 0 < len(met) < 12
    assert Sample.concatenate(drawn).damaged == {str(folder / "broken.png")}
    assert all(len(list(located(sample))) == 1 for sample in met)


def test_a_damaged_picture_changes_no_sample_that_does_not_meet_it(folder: Path) -> None:
    (folder / "later.png").write_bytes((folder / "0.png").read_bytes())
    whole = [crops(folder)[n] for n in range(12)]
    (folder / "later.png").write_bytes(b"")
    damaged = [crops(folder)[n] for n in range(12)]
    untouched = [same(a, b) for a, b in zip(whole, damaged, strict=True)]
    assert untouched == [not sample.damaged for sample in damaged]


def test_a_folder_of_damaged_pictures_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"1 training pictures could not be read, .*a\.png among them"):
        crops(tmp_path)[0]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (3, 2)])
def test_a_step_is_shared_by_all_processes_without_a_sample_drawn_twice(processes: int, accumulate: int) -> None:
    recipe = Recipe(model={}, steps=4, batch=12, accumulate=accumulate)
    shares = [list(StepBatchSampler(recipe, process=n, processes=processes)) for n in range(processes)]
    assert all(len(part) == 12 // processes // accumulate for share in shares for part in share)
    for step in range(4):
        parts = slice(step * accumulate, (step + 1) * accumulate)
        drawn = sorted(n for share in shares for part in share[parts] for n in part)
        assert drawn == list(range(step * 12, (step + 1) * 12))


def test_a_resumed_run_draws_what_the_interrupted_one_would_have_drawn() -> None:
    recipe = Recipe(model={}, steps=5, batch=4, accumulate=2)
    whole, rest = StepBatchSampler(recipe, processes=2), StepBatchSampler(recipe, first_step=3, processes=2)
    assert list(rest) == list(whole)[6:]
    assert len(rest) == len(whole) == 10


def test_a_batch_that_cannot_be_shared_is_refused_with_one_that_can() -> None:
    with pytest.raises(OptionError, match=r"batch 16 cannot be shared by 3 processes in 1 parts each.*--set batch=18"):
        StepBatchSampler(Recipe(model={}, batch=16), processes=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_do_not_depend_on_who_draws_them(folder: Path, workers: int) -> None:
    data = crops(folder, steps=4)
    state = torch.get_rng_state()
    loaded = list(SampleLoader(data, StepBatchSampler(data.recipe), workers))
    assert torch.get_rng_state().equal(state)
    expected = [Sample.concatenate([data[2 * n], data[2 * n + 1]]) for n in range(4)]
    assert all(same(a, b) for a, b in zip(loaded, expected, strict=True))
