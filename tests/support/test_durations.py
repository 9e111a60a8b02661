"""Durations as people say them."""

from __future__ import annotations

import pytest

from hiif_deploy.support.durations import duration, frame_rate, pixel_rate


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.00 s"),
        (0.424, "0.42 s"),
        (9.994, "9.99 s"),
        (9.996, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h"),
        (12047.9, "3 h 21 min"),
        (84_600, "23 h 30 min"),
        (86_399, "1 d"),
        (200_000, "2 d 8 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_rates_name_what_they_count() -> None:
    assert (pixel_rate(0.34567), frame_rate(12.345)) == ("0.346 megapixels/s", "12.3 frames/s")
