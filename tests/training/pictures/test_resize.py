"""Bicubic resizing: bit for bit the published test pictures, and what follows from its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiif_training.pictures.picture_sets import read_rgb
from hiif_training.pictures.resize import cubic, matlab_axis, shrink, upscale_bicubic


@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_every_published_small_picture_is_reproduced_bit_for_bit(shared: Path, name: str) -> None:
    found = []
    for path in sorted((shared / "data" / name / "HR").iterdir()):
        high = read_rgb(path)
        for scale in (2, 3, 4):
            low = read_rgb(shared / "data" / name / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png")
            size = (low.shape[0], low.shape[1])
            found.append(np.array_equal(shrink(high[: size[0] * scale, : size[1] * scale], size, "matlab"), low))
    assert len(found) == {"Set5": 15, "Set14": 42}[name]
    assert all(found)


def test_the_cubic_is_keys_with_a_of_minus_one_half() -> None:
    np.testing.assert_allclose(cubic(np.array([0, 0.5, 1, 1.5, 2, -0.5])), [1, 0.5625, 0, -0.0625, 0, 0.5625])


@pytest.mark.parametrize(("length", "count"), [(10, 5), (7, 20), (9, 4)])
def test_a_constant_stays_and_a_ramp_stays_straight_inside(length: int, count: int) -> None:
    np.testing.assert_allclose(matlab_axis(np.full((length, 2), 0.3), count, 0), 0.3)
    ramp = matlab_axis(np.arange(length, dtype=np.float64)[:, None], count, 0)[:, 0]
    centres = (np.arange(count) + 0.5) * length / count - 0.5
    # As many outputs from the border as the kernel reaches: 2 pixels of the coarser grid.
    reach = int(np.ceil(2 * max(1, count / length)))
    inner = slice(reach, count - reach)
    np.testing.assert_allclose(ramp[inner], centres[inner], atol=1e-12)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(shrink(picture, (9, 7), "matlab"), picture)
    np.testing.assert_allclose(upscale_bicubic(picture, (9, 7)), picture / 255, atol=1e-7)


def test_the_other_rule_is_pillows() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((4, 3), Image.Resampling.BICUBIC))
    assert np.array_equal(shrink(picture, (3, 4), "pil"), expected)
    assert not np.array_equal(shrink(picture, (3, 4), "matlab"), expected)
