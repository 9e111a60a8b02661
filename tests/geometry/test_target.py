"""The output size as the command line names it."""

from __future__ import annotations

from typing import Any

import pytest

from hiif_deploy import OptionError, ScaleError
from hiif_deploy.geometry.target import Target, parse_target


def parse(**words: Any) -> Target:
    return parse_target(**{"scale": None, "size": None, "width": None, "height": None, "max_side": None, **words})


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ({"scale": "3.3"}, (66, 33)),
        ({"scale": "2x3.5"}, (70, 20)),
        ({"size": "1920x1080"}, (1080, 1920)),
        ({"size": "100×50"}, (50, 100)),
        ({"width": 15}, (30, 15)),
        ({"height": 50}, (50, 25)),
        ({"width": 15, "height": 50}, (50, 15)),
        ({"max_side": 100}, (100, 50)),
    ],
)
def test_every_way_of_naming_a_size_gives_height_and_width(words: dict[str, Any], size: tuple[int, int]) -> None:
    assert parse(**words).size((20, 10)) == size


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ({"scale": "3.30"}, "x3.3"),
        ({"scale": "2x3"}, "x2x3"),
        ({"size": "8x9"}, "8x9"),
        ({"width": 8}, "8x"),
        ({"height": 9}, "x9"),
        ({"max_side": 7}, "7"),
    ],
)
def test_the_label_names_the_request(words: dict[str, Any], label: str) -> None:
    assert parse(**words).label == label


@pytest.mark.parametrize(
    "words", [{}, {"scale": "2", "size": "8x9"}, {"scale": "2", "width": 5}, {"max_side": 5, "height": 5}]
)
def test_exactly_one_way_is_wanted(words: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="exactly one of --scale, --size"):
        parse(**words)


def test_size_and_width_contradict() -> None:
    with pytest.raises(OptionError, match="--size names width and height already"):
        parse(size="8x9", width=3)


@pytest.mark.parametrize("size", ["1920", "1920x", "x1080", "-3x4", "3.5x4", "axb", ""])
def test_a_malformed_size_is_refused(size: str) -> None:
    with pytest.raises(ScaleError, match="expected WIDTHxHEIGHT in pixels"):
        parse(size=size)


@pytest.mark.parametrize("scale", ["", "two", "2x3x4", "2,5"])
def test_a_malformed_scale_is_refused(scale: str) -> None:
    with pytest.raises(ScaleError, match=r"expected a number such as 3\.3"):
        parse(scale=scale)


@pytest.mark.parametrize("scale", ["0", "-1", "0.5", "nan", "inf", "2xnan"])
def test_an_impossible_scale_is_refused_before_any_picture_is_read(scale: str) -> None:
    with pytest.raises(ScaleError, match="expected a finite number of at least 1"):
        parse(scale=scale)


@pytest.mark.parametrize("words", [{"width": 0}, {"height": -4}, {"max_side": 0}])
def test_sizes_below_one_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(ScaleError, match="expected at least 1"):
        parse(**words)


def test_a_size_smaller_than_the_picture_is_refused() -> None:
    with pytest.raises(ScaleError, match="only upscales"):
        parse(size="5x40").size((20, 10))
