"""The axis tables equal eager PyTorch on the whole grid, bit for bit; windows, exact bits and refusals."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.errors import OptionError, ScaleError
from hiif_deploy.geometry.grid import Axis, axis_table, relative_cell
from rows import every

Size = tuple[int, int]

DYADIC = [(h, h * s) for s in (2, 4, 8) for h in (1, 2, 3, 5, 7, 24, 33, 48, 100, 127, 128, 255, 256, 339, 510, 678)]
SIXTEENFOLD = [(h, 16 * h) for h in (1, 3, 48, 77, 128, 255, 256, 339, 510, 678)]
THREES = [(h, h * s) for s in (3, 6, 12) for h in (1, 2, 5, 16, 48, 100, 128, 255, 256, 339, 510, 678)]
SAME = [(h, h) for h in (1, 2, 3, 17, 48, 255, 678, 1000, 4096)]
ODD = [(h, round(h * s)) for s in (1.1, 1.37, 2.5, 2**0.5, np.pi, 5.01, 11.9) for h in (1, 4, 9, 31, 48, 101, 255, 510)]
LONG = [(1080, 2160), (2047, 4099), (4095, 8190), (4096, 4097), (4096, 8192), (4096, 10001), (3000, 9000)]
FOURFOLD_RANGE = [(h, 4 * h) for h in range(9, 47)]
NEARLY = [(h, 2 * h + 1) for h in (1, 2, 3, 10, 64, 255, 1001)]
PAIRS: list[Size] = [*DYADIC, *SIXTEENFOLD, *THREES, *SAME, *ODD, *LONG, *FOURFOLD_RANGE, *NEARLY]
"""(source, target) of one axis."""
SHORT: list[Size] = [(1, 1), (1, 3), (2, 3), (2, 2), (1, 2), (3, 4)]
"""The other axis of the grid, in turn: tiny, so that a long axis stays cheap."""
GRIDS = [(pair, SHORT[n % len(SHORT)]) for n, pair in enumerate(PAIRS)]
SQUARE: list[tuple[Size, Size]] = [
    ((24, 48), (32, 64)),
    ((17, 68), (23, 55)),
    ((16, 33), (31, 31)),
    ((20, 20), (20, 160)),
    ((9, 108), (40, 60)),
]
"""Grids of which neither axis is tiny, with different ratios on the two."""


@pytest.fixture(scope="module")
def eager() -> Any:
    """`eager_reference`, where PyTorch is installed."""
    pytest.importorskip("torch")
    return pytest.importorskip("eager_reference")


def same_bits(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Equality of the floats' bits, broadcast: also tells 0 from −0."""
    assert found.dtype == expected.dtype == np.float32
    return bool((found.view(np.int32) == np.ascontiguousarray(expected).view(np.int32)).all())


def test_at_least_two_hundred_different_axes_are_compared() -> None:
    assert len(set(PAIRS)) >= 200


@every("grid", [*GRIDS, *SQUARE])
def test_an_axis_table_equals_eager_pytorch_bit_for_bit(grid: tuple[Size, Size], eager: Any) -> None:
    (source, target), (other_source, other_target) = grid
    rows, columns = axis_table(source, target), axis_table(other_source, other_target)
    whole = eager.eager_grid((source, other_source), (target, other_target))
    for corner, (low_or_high, left_or_right) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        taps, relative = whole.taps[corner].numpy(), whole.relative[corner].abs().numpy()
        assert (rows.taps[low_or_high][:, None] == taps[..., 0]).all()
        assert (columns.taps[left_or_right][None] == taps[..., 1]).all()
        assert same_bits(rows.distance[low_or_high][:, None], relative[..., 0])
        assert same_bits(columns.distance[left_or_right][None], relative[..., 1])
    assert same_bits(rows.local[:, None], whole.local[..., 0].numpy())
    assert same_bits(columns.local[None], whole.local[..., 1].numpy())
    assert (rows.bits[:, :, None] == whole.bits[..., 0].numpy()).all()
    assert (columns.bits[:, None] == whole.bits[..., 1].numpy()).all()


@every("grid", [*GRIDS[::7], *SQUARE])
def test_the_queries_in_training_weigh_the_corners_as_eager_pytorch(grid: tuple[Size, Size], eager: Any) -> None:
    queries = pytest.importorskip("hiif_training.queries.axis")
    source, target = (grid[0][0], grid[1][0]), (grid[0][1], grid[1][1])
    expected = eager.eager_grid(source, target).weights.flatten(1).numpy()
    assert same_bits(queries.grid_queries(source, target).weight[0].numpy(), expected)


@pytest.mark.parametrize("levels", [1, 4, 9])
def test_the_number_of_levels_is_the_requested_one(levels: int, eager: Any) -> None:
    expected = eager.eager_grid((33, 1), (100, 1), levels).bits[..., 0, 0].numpy()
    np.testing.assert_array_equal(axis_table(33, 100, levels=levels).bits, expected)


@pytest.mark.parametrize("case", ["case_a", "case_c", "case_e_whole"])
def test_bits_and_local_coordinates_equal_those_of_the_public_code(case: str, shared: Any) -> None:
    with np.load(shared / "data" / "golden" / "hiif-edsr" / f"{case}.npz") as data:
        source, target = data["input"].shape[2:], data["output"].shape[2:]
        bits, local = data["bits"], data["local_coord"]
    rows, columns = (axis_table(n, m) for n, m in zip(source, target, strict=True))
    np.testing.assert_array_equal(np.broadcast_to(rows.bits[:, :, None], bits.shape[:3]), bits[..., 0])
    np.testing.assert_array_equal(np.broadcast_to(columns.bits[:, None], bits.shape[:3]), bits[..., 1])
    assert same_bits(rows.local[:, None], local[..., 0])
    assert same_bits(columns.local[None], local[..., 1])


@pytest.mark.parametrize("source", [(24, 32), (1, 1), (255, 7), (4096, 678)])
@pytest.mark.parametrize("factor", [(2, 2), (3.3, 3.3), (1, 12), (2.75, 1.5)])
def test_the_relative_cell_equals_float32_torch(source: Size, factor: tuple[float, float], eager: Any) -> None:
    target = (round(source[0] * factor[0]), round(source[1] * factor[1]))
    assert same_bits(relative_cell(source, target), eager.relative_cell(source, target).numpy())


@every("pair", [*PAIRS[::5], (2, 5)])
def test_the_skip_equals_bilinear_interpolation(pair: Size) -> None:
    torch = pytest.importorskip("torch")
    picture = np.random.default_rng(pair[1]).random((pair[0], 3))
    # In double precision torch computes its own positions to more digits than the tables hold.
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(picture.T[None, :, :, None]), (pair[1], 1), mode="bilinear", align_corners=False
    )[0, :, :, 0].T.numpy()
    axis = axis_table(*pair)
    low, high = picture[axis.skip_taps[0]], picture[axis.skip_taps[1]]
    np.testing.assert_allclose(low + (high - low) * axis.skip_weight[:, None], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", ["reference", "exact"])
@pytest.mark.parametrize("pair", [(1, 1), (5, 16), (48, 144), (255, 1020), (339, 678)], ids=str)
def test_a_window_equals_that_slice_of_the_whole(pair: Size, bits: Any) -> None:
    whole = axis_table(*pair, bits=bits)
    for start, stop in {(0, 1), (0, pair[1]), (pair[1] // 3, pair[1] // 3 + 1), (pair[1] // 2, pair[1])}:
        window, part = axis_table(*pair, (start, stop), bits=bits), whole[start:stop]
        assert window.count == stop - start
        for name in Axis.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(window, name), getattr(part, name))


@every("pair", PAIRS)
def test_both_taps_lie_in_the_source_and_around_the_query(pair: Size) -> None:
    axis = axis_table(*pair)
    assert axis.taps.min() >= 0
    assert axis.taps.max() < pair[0]
    # Where the shift's 1e-6 and rounding meet a centre, the upper tap may be one further.
    assert np.isin(axis.taps[1] - axis.taps[0], (0, 1, 2)).all()
    assert axis.distance.min() >= 0
    assert axis.distance.max() <= 1 + 1e-6 * pair[0]


@every("pair", PAIRS)
def test_weights_and_local_coordinates_are_fractions(pair: Size) -> None:
    axis, exact = axis_table(*pair), axis_table(*pair, bits="exact")
    assert 0 <= axis.skip_weight.min() <= axis.skip_weight.max() < 1
    assert 0 <= exact.local.min() <= exact.local.max() <= 1
    # The published border branch, 1 / source − r, leaves [0, 1] for a single source pixel only.
    assert 0 <= axis.local.min() <= axis.local.max() <= (1.5 if pair[0] == 1 else 1.01)


@every("pair", [p for p in PAIRS if p[1] <= 2100])
def test_exact_bits_are_the_binary_digits_of_the_true_position(pair: Size) -> None:
    source, target = pair
    axis = axis_table(source, target, bits="exact")
    for i in range(0, target, max(1, target // 40)):
        position = Fraction(2 * i + 1, 2) * Fraction(source, target) - Fraction(1, 2)
        fraction = position - (position.numerator // position.denominator)
        digits = [int(fraction * 2 ** (n + 1)) % 2 for n in range(6)]
        assert axis.bits[:, i].tolist() == digits
        assert axis.local[i] == np.float32(float(fraction))


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 6, 8, 12, 16])
def test_exact_bits_depend_on_the_phase_alone_at_integer_scales(scale: int) -> None:
    phases = axis_table(1, scale, bits="exact").bits
    for source in (2, 48, 128, 255, 339, 678):
        bits = axis_table(source, source * scale, bits="exact").bits.reshape(6, source, scale)
        assert (bits == phases[:, None]).all()


def test_reference_bits_do_not_depend_on_the_phase_alone() -> None:
    bits = axis_table(255, 510).bits.reshape(6, 255, 2)
    assert (bits != bits[:, 100:101]).any()


def test_the_bit_rule_changes_nothing_but_bits_and_local_coordinate() -> None:
    reference, exact = axis_table(48, 100), axis_table(48, 100, bits="exact")
    for name in ("taps", "distance", "skip_taps", "skip_weight"):
        np.testing.assert_array_equal(getattr(reference, name), getattr(exact, name))
    assert (reference.bits != exact.bits).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "axis of 0 → 5 pixels: both sizes must be at least 1"),
        ((5, 0), "axis of 5 → 0 pixels: both sizes must be at least 1"),
        ((-3, 5), "axis of -3 → 5 pixels: both sizes must be at least 1"),
        ((10, 9), "output of 9 pixels for 10 input pixels: scale 0.9 is below 1; this model only upscales"),
        ((4, 8, (0, 9)), "window 0:9 does not lie inside an axis of 8 pixels"),
        ((4, 8, (-1, 4)), "window -1:4 does not lie inside an axis of 8 pixels"),
        ((4, 8, (3, 3)), "window 3:3 does not lie inside an axis of 8 pixels"),
        ((4, 8, (5, 2)), "window 5:2 does not lie inside an axis of 8 pixels"),
    ],
)
def test_impossible_axes_are_refused_with_what_arrived(arguments: Any, message: str) -> None:
    with pytest.raises(ScaleError, match=re.escape(message)) as caught:
        axis_table(*arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_bit_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=re.escape("bit rule 'fast': expected one of reference, exact")):
        axis_table(4, 8, bits="fast")  # type: ignore[arg-type]
