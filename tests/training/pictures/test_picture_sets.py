"""Test sets: which pictures stand against which, at which size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiif_deploy.errors import ImageError
from hiif_training.pictures.picture_sets import PictureSet
from hiif_training.pictures.resize import shrink


def picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """HR and LR_bicubic/X2; the small picture does not cover the large one's last column."""
    picture(tmp_path / "HR" / "b.png", 20, 31)
    picture(tmp_path / "HR" / "a.png", 24, 24)
    picture(tmp_path / "LR_bicubic" / "X2" / "bx2.png", 10, 15)
    picture(tmp_path / "LR_bicubic" / "X2" / "ax2.png", 12, 12)
    return tmp_path


def test_small_pictures_of_the_folder_are_taken_and_the_truth_is_cropped_to_them(layout: Path) -> None:
    pairs = list(PictureSet(layout).pairs(2))
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert [pair.truth.shape for pair in pairs] == [(24, 24, 3), (20, 30, 3)]
    assert {pair.source for pair in pairs} == {"folder"}
    given = np.asarray(Image.open(layout / "LR_bicubic" / "X2" / "bx2.png"))
    assert np.array_equal(pairs[1].low, given)


def test_missing_small_pictures_are_made_by_pillows_rule(layout: Path) -> None:
    pair = list(PictureSet(layout).pairs(6))[1]
    assert (pair.low.shape, pair.truth.shape, pair.source) == ((3, 5, 3), (18, 30, 3), "pil")
    assert np.array_equal(pair.low, shrink(pair.truth, (3, 5), "pil"))


def test_a_fractional_scale_is_floored_then_rounded(layout: Path) -> None:
    pair = list(PictureSet(layout).pairs(2.5))[1]
    assert (pair.low.shape, pair.truth.shape) == ((8, 12, 3), (20, 30, 3))


@pytest.mark.parametrize("rule", ["matlab", "pil"])
def test_a_named_rule_makes_all_small_pictures(layout: Path, rule: str) -> None:
    pairs = list(PictureSet(layout, rule).pairs(2))  # type: ignore[arg-type]
    assert {pair.source for pair in pairs} == {rule}
    assert np.array_equal(pairs[0].low, shrink(pairs[0].truth, (12, 12), rule))  # type: ignore[arg-type]


def test_a_plain_folder_and_div2k_are_sets_too(tmp_path: Path) -> None:
    picture(tmp_path / "plain" / "a.png", 8, 8)
    picture(tmp_path / "DIV2K" / "DIV2K_valid_HR" / "0801.png", 8, 8)
    picture(tmp_path / "DIV2K" / "DIV2K_valid_LR_bicubic" / "X2" / "0801x2.png", 4, 4)
    assert [pair.source for pair in PictureSet(tmp_path / "plain").pairs(2)] == ["pil"]
    assert [pair.source for pair in PictureSet(tmp_path / "DIV2K").pairs(2)] == ["folder"]
    assert PictureSet(tmp_path / "DIV2K").name == "DIV2K"


def test_a_limit_takes_the_first_pictures(layout: Path) -> None:
    assert [pair.name for pair in PictureSet(layout, limit=1).pairs(2)] == ["a"]


def test_a_missing_small_picture_among_others_is_named(layout: Path) -> None:
    (layout / "LR_bicubic" / "X2" / "bx2.png").unlink()
    with pytest.raises(ImageError, match=r"bx2\.png does not exist"):
        list(PictureSet(layout).pairs(2))


def test_a_picture_that_does_not_hold_its_small_one_is_named(layout: Path) -> None:
    picture(layout / "LR_bicubic" / "X2" / "bx2.png", 11, 15)
    with pytest.raises(ImageError, match=r"b\.png: 31x20 does not hold 15x11 at ×2"):
        list(PictureSet(layout).pairs(2))


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no pictures found, neither there nor in"):
        PictureSet(tmp_path)


def test_deep_pictures_are_refused_and_grey_ones_are_filled(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 200, dtype=np.uint8)).save(tmp_path / "grey.png")
    assert next(iter(PictureSet(tmp_path).pairs(2))).truth.shape == (8, 8, 3)
    Image.fromarray(np.full((8, 8), 2000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImageError, match=r"deep\.png: uint16; the published protocol knows 8-bit pictures only"):
        list(PictureSet(tmp_path).pairs(2))
