"""Whatever the picture and the budget: nothing is left out, nothing is done twice, and the tiles fit."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.encode import encoder_calls
from hiif_deploy.decoding.plan import BLEND_OVERLAP, encoder_tiles, make_plan
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.grid import axis_table
from hiif_deploy.geometry.tiling import decoder_tiles, query_blocks
from rows import every
from sample_contract import make_contract

MIB = 1 << 20
ENCODERS: dict[str, dict[str, Any]] = {
    "near": {"receptive_field": 6, "size_multiple": 1, "memory_channels": 96},
    "far": {"receptive_field": 34, "size_multiple": 1, "memory_channels": 384},
    "unbounded": {"receptive_field": None, "size_multiple": 1, "memory_channels": 700},
    "windowed": {"receptive_field": None, "size_multiple": 8, "memory_channels": 1500},
    "both": {"receptive_field": 13, "size_multiple": 8, "memory_channels": 256},
}
"""Receptive fields and size multiples as the encoders have them, and one with both."""
SEEDS = range(60)


def random_contract(random: np.random.Generator) -> Contract:
    encoder = ENCODERS[str(random.choice(list(ENCODERS)))]
    decoder = {"map_channels": int(random.integers(20, 2000)), "query_channels": int(random.integers(50, 3000))}
    return make_contract(encoder=encoder, decoder=decoder)


def random_size(random: np.random.Generator) -> tuple[int, int]:
    """Log-uniform, so that a side may be 1 or 5000."""
    height, width = np.exp(random.uniform(0, np.log(5000), 2)).astype(int)
    return int(height), int(width)


def random_options(random: np.random.Generator) -> dict[str, int]:
    return {
        "threads": int(random.integers(1, 9)),
        "query_block": int(2 ** random.integers(0, 13)),
        "tile_rows": int(random.integers(1, 20)),
    }


def bytes_seen(contract: Contract, source: tuple[int, int], tile: tuple[int, int], overlap: int) -> int:
    """Memory of the largest encoder call: tile and overlap inside the picture, padded to the multiple."""
    sides = [min(size, part + 2 * overlap) for size, part in zip(source, tile, strict=True)]
    padded = [-(-side // contract.encoder.size_multiple) * contract.encoder.size_multiple for side in sides]
    return 4 * contract.encoder.memory_channels * padded[0] * padded[1]


def suggestion(error: OptionError) -> int:
    """The budget that a refusal names, in bytes."""
    found = re.search(r"allow at least (\d+) MiB", str(error))
    assert found is not None
    return int(found[1]) * MIB


@every("seed", SEEDS)
def test_a_plan_fits_its_budget(seed: int) -> None:
    random = np.random.default_rng(seed)
    contract, source, options = random_contract(random), random_size(random), random_options(random)
    for budget in (int(2 ** random.uniform(22, 31)) for _ in range(5)):
        try:
            plan = make_plan(contract, source, budget=budget, **options)
        except OptionError:
            continue  # see the next tests
        assert bytes_seen(contract, source, plan.encoder_tile, plan.overlap) <= budget
        assert 0 <= plan.cache_bytes <= plan.working_bytes <= budget
        assert min(plan.encoder_tile) >= 1
        assert 1 <= plan.decoder_tile[1] <= source[1]
        assert (plan.decoder_tile[0], plan.query_block) == (options["tile_rows"], options["query_block"])


@every("seed", SEEDS)
def test_a_budget_too_small_for_the_threads_is_refused_with_one_that_suffices(seed: int) -> None:
    random = np.random.default_rng(seed)
    contract, source, options = random_contract(random), random_size(random), random_options(random)
    refusal = rf"memory budget of 0 MiB is too small for {options['threads']} threads: allow at least \d+ MiB, or use"
    with pytest.raises(OptionError, match=refusal) as caught:
        make_plan(contract, source, budget=400, **options)
    assert "\n" not in str(caught.value)
    make_plan(contract, source, budget=suggestion(caught.value), **options)


@every("seed", SEEDS)
def test_a_budget_too_small_for_the_encoder_is_refused_with_one_that_suffices(seed: int) -> None:
    random = np.random.default_rng(seed)
    encoder = {**ENCODERS[str(random.choice(list(ENCODERS)))], "memory_channels": 10_000}
    contract = make_contract(encoder=encoder, decoder={"map_channels": 20, "query_channels": 50})
    source, options = random_size(random), {"query_block": 1, "tile_rows": 1}
    refusal = (
        r"memory budget of 0 MiB is too small for this encoder, which needs tiles with \d+ pixels of overlap: allow"
    )
    with pytest.raises(OptionError, match=refusal) as caught:
        make_plan(contract, source, budget=30_000, **options)
    assert "\n" not in str(caught.value)
    make_plan(contract, source, budget=suggestion(caught.value), **options)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_picture_that_fits_is_encoded_whole(encoder: str) -> None:
    contract = make_contract(encoder=ENCODERS[encoder])
    assert encoder_tiles(contract, (40, 48), 1 << 30)[:3] == ((40, 48), 0, False)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("source", [(1, 5000), (5000, 1), (2, 5000), (5000, 3), (700, 900)], ids=str)
def test_tiles_overlap_by_the_receptive_field_or_are_blended(encoder: str, source: tuple[int, int]) -> None:
    contract = make_contract(encoder=ENCODERS[encoder])
    field = contract.encoder.receptive_field
    budget = bytes_seen(contract, source, source, 0) - 1
    tile, overlap, blended, estimate = encoder_tiles(contract, source, budget)
    assert tile != source
    assert blended is (field is None)
    assert overlap == (BLEND_OVERLAP if field is None else field)
    assert estimate == bytes_seen(contract, source, tile, overlap) <= budget


def test_a_larger_budget_never_costs_more_encoder_calls() -> None:
    contract = make_contract(encoder=ENCODERS["far"])
    calls = [
        encoder_calls((1080, 1920), make_plan(contract, (1080, 1920), budget=size * MIB))
        for size in (24, 48, 96, 200, 400, 800, 1600, 3200)
    ]
    assert calls == sorted(calls, reverse=True)
    assert calls[0] > calls[-1] == 1


@pytest.mark.parametrize(("passes", "kept"), [(0, False), (1, True)])
def test_maps_are_kept_only_for_decoders_that_read_them_twice(passes: int, kept: bool) -> None:
    plan = make_plan(make_contract(decoder={"statistics_passes": passes}), (64, 64))
    assert (plan.cache_bytes > 0) is kept


@pytest.mark.parametrize("options", [{"query_block": 0}, {"tile_rows": 0}, {"query_block": -5}], ids=str)
def test_empty_blocks_and_tiles_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=r"query block -?\d+ and tile rows \d+ must be at least 1"):
        make_plan(make_contract(), (8, 8), **options)


@every("seed", SEEDS)
def test_decoder_tiles_cover_every_query_once_and_hold_their_taps(seed: int) -> None:
    random = np.random.default_rng(seed)
    source = [int(n) for n in np.minimum(random_size(random), 300)]
    scales = random.uniform(1, 5, 2)
    targets = [max(n, round(n * s)) for n, s in zip(source, scales, strict=True)]
    starts = [int(random.integers(0, n)) for n in targets]
    stops = [int(random.integers(a + 1, n + 1)) for a, n in zip(starts, targets, strict=True)]
    rows, columns = (axis_table(*each[:2], each[2:]) for each in zip(source, targets, starts, stops, strict=True))
    size = (int(random.integers(1, 12)), int(random.integers(1, 60)))
    most_queries = int(random.integers(1, 3000))
    plan = dataclasses.replace(make_plan(make_contract(), (8, 8)), decoder_tile=size, tile_queries=most_queries)
    visits = np.zeros((rows.count, columns.count), dtype=int)
    for tile in decoder_tiles(rows, columns, plan.decoder_tile, plan.tile_queries):
        assert 1 <= visits[tile.rows, tile.columns].size <= most_queries
        visits[tile.rows, tile.columns] += 1
        for axis, part, held, most in (
            (rows, tile.rows, tile.source_rows, size[0]),
            (columns, tile.columns, tile.source_columns, size[1]),
        ):
            taps = axis[part].taps
            assert held.start <= taps.min()
            assert held.stop >= taps.max() + 1
            assert held.stop - held.start <= most + 2
    assert (visits == 1).all()


@pytest.mark.parametrize("source", [(1, 5000), (5000, 1)], ids=str)
@pytest.mark.parametrize("scale", [1, 2])
def test_wide_and_tall_pictures_are_cut_along_their_length(source: tuple[int, int], scale: int) -> None:
    plan = make_plan(make_contract(), source, budget=256 * MIB)
    rows, columns = (axis_table(n, n * scale) for n in source)
    tiles = decoder_tiles(rows, columns, plan.decoder_tile, plan.tile_queries)
    assert sum((t.rows.stop - t.rows.start) * (t.columns.stop - t.columns.start) for t in tiles) == 5000 * scale**2
    assert len({tile.key for tile in tiles}) == len(tiles) > 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (33, 70), (64, 64), (7, 2048), (3, 2049)], ids=str)
@pytest.mark.parametrize("most", [1, 2, 100, 2048])
def test_query_blocks_cover_every_query_once_in_order(shape: tuple[int, int], most: int) -> None:
    visits = np.zeros(shape, dtype=int)
    corners = []
    for rows, columns in query_blocks(*shape, most):
        block = visits[rows, columns]
        assert 1 <= block.size <= most
        assert block.shape == (rows.stop - rows.start, columns.stop - columns.start)
        block += 1
        corners.append((rows.start, columns.start))
    assert (visits == 1).all()
    assert all(one < other for one, other in pairwise(corners))


def test_a_large_scale_makes_smaller_tiles_of_the_same_source_pixels() -> None:
    plan = make_plan(make_contract(), (16, 16))
    rows, columns = axis_table(16, 1600), axis_table(16, 1600)
    tiles = decoder_tiles(rows, columns, plan.decoder_tile, plan.tile_queries)
    assert max((t.rows.stop - t.rows.start) * (t.columns.stop - t.columns.start) for t in tiles) <= plan.tile_queries
    assert len({tile.key for tile in tiles}) < len(tiles) / 10
