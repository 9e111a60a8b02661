"""What counts as equal, and what a message says where two answers are not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hiif_deploy.errors import ParityError
from hiif_deploy.rendering.verify import TOLERANCES, Difference, check_difference, check_stored, measure


def test_equal_outputs_differ_by_nothing() -> None:
    assert measure(np.ones((2, 3)), np.ones((2, 3))) == Difference(0.0, 0.0, 200.0)


def test_psnr_is_that_of_its_definition() -> None:
    error = np.zeros(10_001)
    error[7] = 0.1
    found = measure(error, np.zeros(10_001))
    assert found.largest == pytest.approx(0.1)
    assert found.quantile == pytest.approx(0.0, abs=1e-12)
    assert found.psnr == pytest.approx(-10 * math.log10(0.01 / 10_001))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_infinitely_far_away(value: float) -> None:
    found = measure(np.array([0.0, value], np.float16), np.zeros(2))
    assert (found.largest, found.psnr) == (math.inf, -math.inf)
    with pytest.raises(ParityError):
        check_difference("colours", found, TOLERANCES["fp16"])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Difference(0.04, 0.0, 90), "x differ from PyTorch by 4.00e-02, allowed 3.1e-02; here"),
        (
            Difference(0.03, 5e-3, 90),
            "x differ from PyTorch by 5.00e-03 at the 99.99th percentile, allowed 3.9e-03; here",
        ),
        (Difference(0.03, 0.003, 59.9), "x differ from PyTorch so that they lie 59.9 dB from it, wanted 60 dB; here"),
    ],
)
def test_the_measure_that_is_exceeded_is_named(found: Difference, message: str) -> None:
    with pytest.raises(ParityError) as caught:
        check_difference("x", found, TOLERANCES["fp16"], "; here")
    assert str(caught.value) == message


def test_the_bounds_themselves_are_allowed() -> None:
    for tolerance in TOLERANCES.values():
        check_difference("x", Difference(tolerance.largest, tolerance.quantile, tolerance.psnr), tolerance)


def test_nothing_stored_is_no_proof() -> None:
    with pytest.raises(ParityError, match="stores no reference outputs"):
        check_stored({})
