"""What every description of an instruction set must fulfil, so that the kernels fit it."""

from __future__ import annotations

import pytest

from hiif_engines.native.kernel import BLOCK
from hiif_engines.native.products.product import rows_at_once
from hiif_engines.native.sums import HEAD
from hiif_engines.native.target import TARGETS, TILE


@pytest.mark.parametrize("name", TARGETS)
def test_a_tiles_sums_a_vector_of_each_panel_and_a_rows_value_fit_the_registers(name: str) -> None:
    target = TARGETS[name]
    if target.tiles:
        assert (target.rows, target.vectors * target.lanes) == (2 * TILE, 2 * TILE)
    else:
        assert rows_at_once(target, target.vectors) == target.rows


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_target_leaves_to_float32_another_one_computes(name: str) -> None:
    target = TARGETS[name]
    assert "fp32" in target.in_float32.precisions
    assert target.in_float32.lanes == target.lanes
    assert target.in_float32.needs <= target.needs


@pytest.mark.parametrize("name", TARGETS)
def test_blocks_are_whole_tiles_and_panels_whole_heads(name: str) -> None:
    target = TARGETS[name]
    assert BLOCK % target.rows == 0
    assert HEAD % target.lanes == 0
    assert target.panel(2 * HEAD) % HEAD == 0


def test_outputs_are_split_into_equal_panels_and_values_padded_to_vectors() -> None:
    wide, narrow = TARGETS["avx512"], TARGETS["avx2"]
    assert [wide.panel(outputs) for outputs in (16, 32, 48, 64)] == [16, 32, 16, 32]
    assert [narrow.panel(outputs) for outputs in (8, 16, 24, 64)] == [8, 16, 8, 16]
    assert [wide.padded(values) for values in (1, 16, 17)] == [16, 16, 32]
    assert [narrow.padded(values) for values in (1, 8, 17)] == [8, 8, 24]
