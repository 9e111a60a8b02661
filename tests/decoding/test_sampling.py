"""Sampled statistics: which queries are asked, and how far the picture is from the exact one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hiif_deploy import OptionError, RenderOptions, Upscaler
from hiif_deploy.decoding.sampling import MIN_SAMPLES, PERIOD, SHARE, Sampling, enough
from hiif_deploy.decoding.session import REDUCED_PRECISIONS, ComputePrecision
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import measure

SIZE = (97, 130)
WHOLE = slice(0, SIZE[0]), slice(0, SIZE[1])


@pytest.fixture
def sampling() -> Sampling:
    found = Sampling.of(SIZE, 700)
    assert found is not None
    return found


def test_at_least_as_many_queries_are_sampled_as_requested(sampling: Sampling) -> None:
    assert 700 <= sampling.count(*WHOLE) <= 2 * 700


def test_a_picture_of_hardly_more_queries_is_not_sampled() -> None:
    assert Sampling.of((20, 30), 301) is None


def test_every_cell_gives_one_query(sampling: Sampling) -> None:
    rows = sampling.rows(WHOLE[0])
    assert (rows // sampling.stride[0]).tolist() == list(range(len(rows)))
    columns = sampling.columns(int(rows[3]), WHOLE[1])
    assert (columns // sampling.stride[1]).tolist() == list(range(len(columns)))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_all_phases_of_a_scale_are_met_about_equally(scale: int) -> None:
    found = Sampling((512, 512), (1, 8))
    phases = np.zeros((scale, scale))
    for row in range(512):
        np.add.at(phases[row % scale], found.columns(row, slice(0, 512)) % scale, 1)
    assert phases.max() <= 1.2 * phases.mean()
    assert phases.min() >= 0.8 * phases.mean()


def test_a_sample_smaller_than_the_rows_leaves_rows_out() -> None:
    found = Sampling.of((500, 40), 100)
    assert found is not None
    assert 100 <= found.count(slice(0, 500), slice(0, 40)) <= 200


def test_parts_of_the_output_hold_the_whole_sample(sampling: Sampling) -> None:
    parts = [(slice(0, 40), WHOLE[1]), (slice(40, 97), slice(0, 51)), (slice(40, 97), slice(51, 130))]
    assert sum(sampling.count(*part) for part in parts) == sampling.count(*WHOLE)


def test_a_sampled_picture_is_near_the_exact_one_and_says_so(tiny_bundle: Path) -> None:
    image = sample("astronaut")[:48, :40]
    with (
        Upscaler(tiny_bundle) as exact,
        Upscaler(exact.bundle, options=RenderOptions(statistics="sampled", samples=4000)) as sampled,
    ):
        features = exact.encode(image)
        expected = exact.render_unclamped(features, size=(144, 120))
        answer = sampled.render_unclamped(features, size=(144, 120))
        assert "sampled statistics" in sampled.description
        assert "sampled" not in exact.description
    assert not np.array_equal(answer, expected)
    assert measure(answer, expected).psnr > 30


def test_the_sample_does_not_depend_on_how_the_work_is_cut(tiny_bundle: Path) -> None:
    image = sample("astronaut")[:40, :40]
    answers = []
    for tile_rows, block in ((3, 500), (64, 100_000)):
        options = RenderOptions(statistics="sampled", samples=2000, tile_rows=tile_rows, query_block=block)
        with Upscaler(tiny_bundle, options=options) as upscaler:
            answers.append(upscaler.render_unclamped(upscaler.encode(image), size=(120, 120)))
    assert np.abs(answers[0] - answers[1]).max() <= 1e-5


def test_the_published_evaluation_is_not_sampled() -> None:
    with pytest.raises(OptionError, match="cannot be sampled"):
        RenderOptions(statistics="sampled", group_rows=300)


def test_a_sample_is_a_few_grids(sampling: Sampling) -> None:
    part = slice(11, 60), slice(20, 99)
    grids = list(sampling.grids(*part))
    found = {(int(row), int(column)) for rows, columns in grids for row in rows for column in columns}
    expected = {(int(row), int(column)) for row in sampling.rows(part[0]) for column in sampling.columns(row, part[1])}
    assert len(grids) <= PERIOD
    assert found == expected
    assert len(found) == sampling.count(*part)


def test_a_large_picture_gives_a_share_of_its_queries_and_a_small_one_enough() -> None:
    assert enough((200, 300), "fp32") == MIN_SAMPLES
    assert enough((4000, 1000), "fp32") == 4000 * 1000 // SHARE


@pytest.mark.parametrize("precision", REDUCED_PRECISIONS)
def test_an_arithmetic_that_is_further_off_than_a_sample_is_given_half_of_it(precision: ComputePrecision) -> None:
    assert enough((200, 300), precision) == MIN_SAMPLES // 2
    assert enough((4000, 1000), precision) == 4000 * 1000 // SHARE // 2
