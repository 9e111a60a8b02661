"""The comparison of streams finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs PyAV")

from stream_compare import differences

Clip = Callable[[str], Path]


@pytest.mark.parametrize("name", ["everything", "hdr", "rotated", "variable_mp4"])
def test_a_clip_is_like_itself(clip: Clip, name: str) -> None:
    assert differences(clip(name), clip(name), scale=1) == []


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ("movie", "rotated", ["0 chapters, before 2", "rotation is 90, before 0"]),
        ("anamorphic", "constant", ["aspect is None, before Fraction(64, 45)"]),
        ("hdr_mp4", "movie", ["bits is 8, before 10", "matrix is 1, before 9", "transfer is 1", "side data is {}"]),
        ("full_range", "anamorphic_mp4", ["range is 1, before 2"]),
        ("everything", "variable", ["metadata {}", "0 chapters", "streams are [('video', None)]"]),
        ("variable", "anamorphic", ["12 frames, before 14", "9 frames at other times: frame 2"]),
        ("long_audio", "movie", ["stream 1: 24 packets of other content, before 72"]),
        ("constant", "late", ["12 frames at other times"]),
    ],
)
def test_what_was_lost_is_named(clip: Clip, before: str, after: str, lost: list[str]) -> None:
    found = "\n".join(differences(clip(before), clip(after), scale=1))
    assert [words for words in lost if words not in found] == [], found


def test_a_wrong_size_is_named(clip: Clip) -> None:
    assert differences(clip("odd"), clip("odd"), scale=2.5) == ["pictures are (23, 31), expected (58, 78)"]


def test_times_may_differ_by_a_tick(clip: Clip) -> None:
    late = differences(clip("variable"), clip("anamorphic"), scale=1, tick=Fraction(1))
    assert not any("at other times" in line for line in late)
