"""The estimates of rounding, against rounding itself."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tolerances import SAFETY, UNIT, operand_error, order_error, rounding_error

RANDOM = np.random.default_rng(0)


def rounded(values: NDArray[np.float64], precision: str) -> NDArray[np.float64]:
    """To nearest, by the definition of each type."""
    if precision == "int8":
        low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
        step = (high - low) / 255
        return np.asarray(np.rint((values - low) / step) * step + low)
    exponent = 2.0 ** np.floor(np.log2(np.abs(values)))
    return np.asarray(np.rint(values / exponent / (2 * UNIT[precision])) * 2 * UNIT[precision] * exponent)


def share(error: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(error**2) / np.mean(values**2)))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_an_operands_error_is_the_estimated_one(precision: str) -> None:
    values = RANDOM.standard_normal((200, 256))
    found = share(rounded(values, precision) - values, values)
    assert operand_error(precision) / 2.5 < found < operand_error(precision)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_eight_products_stay_below_the_estimate_and_near_it(precision: str) -> None:
    exact = x = RANDOM.standard_normal((300, 128))
    for _ in range(8):
        weights = RANDOM.standard_normal((128, 128)) / np.sqrt(128)
        exact, x = exact @ weights, rounded(x, precision) @ rounded(weights.T, precision).T
    assert rounding_error(precision, 8) / 10 < share(x - exact, exact) < rounding_error(precision, 8)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_another_order_stays_below_the_estimate(precision: str) -> None:
    terms = 6000
    x = RANDOM.standard_normal((300, 128))
    other = x * (1 + UNIT["fp32"] * np.sqrt(terms) * RANDOM.choice([-1, 1], (300, 1)))
    for _ in range(8):
        weights = RANDOM.standard_normal((128, 128)) / np.sqrt(128)
        x, other = rounded(x, precision) @ weights, rounded(other, precision) @ weights
    assert 0 < share(x - other, x) < order_error(precision, 8, terms)


def test_the_estimates_grow_with_the_unit_and_carry_the_safety() -> None:
    assert rounding_error("bf16", 8) == pytest.approx(SAFETY * 4 * operand_error("bf16"))
    assert rounding_error("bf16", 1) > rounding_error("fp16", 1) > rounding_error("fp32", 1)
    assert order_error("fp32", 4, 100) < order_error("bf16", 1, 100) < order_error("bf16", 4, 100)
    assert order_error("bf16", 40, 10**6) == pytest.approx(2**0.5 * rounding_error("bf16", 40))
