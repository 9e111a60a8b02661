"""The quality of a JPEG and the noise of a picture are estimated from what was read, whatever it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hiif_deploy.images.degradation import Degradation, jpeg_quality, measure, noise_level
from hiif_deploy.images.io import read_image
from hiif_deploy.images.picture import Picture
from hiif_deploy.images.samples import SAMPLES, sample


def noisy(pixels: NDArray[Any], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(3).normal(0, sigma, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def ramp(height: int = 200, width: int = 240) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([60 + rows // 2, 60 + columns // 2, 40 + (rows + columns) // 4]).astype(np.uint8)


@pytest.mark.parametrize("quality", range(1, 101))
def test_the_quality_is_that_with_which_a_jpeg_was_saved(quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(ramp(16, 16)).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        assert jpeg_quality(image.quantization) == quality  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_picture_knows_the_quality_of_its_jpeg(mode: str, tmp_path: Path) -> None:
    Image.fromarray(ramp()).convert(mode).save(tmp_path / "a.jpg", quality=40)
    picture = read_image(tmp_path / "a.jpg")
    assert picture.jpeg_quality == 40
    assert measure(picture) == Degradation(jpeg=40)


@pytest.mark.parametrize(
    ("tables", "quality"),
    [
        ({}, None),
        ({1: [1] * 64}, None),
        ({0: []}, None),
        ({0: [1] * 63}, None),
        ({0: [0] * 64}, 100),
        ({0: [1] * 64}, 100),
        ({0: [65535] * 64}, 1),
    ],
)
def test_strange_tables_have_the_nearest_quality_or_none(tables: dict[int, list[int]], quality: int | None) -> None:
    assert jpeg_quality(tables) == quality


@pytest.mark.parametrize(("quality", "found"), [(89, 89), (90, None), (95, None)])
def test_a_jpeg_of_quality_90_counts_as_clean(quality: int, found: int | None) -> None:
    assert measure(Picture(ramp(), jpeg_quality=quality)).jpeg == found


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_samples_are_clean(name: str) -> None:
    assert measure(Picture(sample(name))) == Degradation()


@pytest.mark.parametrize("name", sorted(SAMPLES))
@pytest.mark.parametrize("sigma", [6, 10, 25])
def test_noise_in_the_samples_is_found(name: str, sigma: int) -> None:
    found = measure(Picture(noisy(sample(name), sigma))).noise
    assert found == pytest.approx(sigma, rel=0.4)


@pytest.mark.parametrize("sigma", [5, 10, 20])
def test_grey_16_bit_and_coloured_pictures_have_the_same_noise(sigma: int) -> None:
    pixels = noisy(ramp(), sigma)
    level = noise_level(pixels)
    assert level == pytest.approx(sigma, rel=0.15)
    assert noise_level(np.ascontiguousarray(pixels[..., 1])) == level
    assert noise_level(pixels.astype(np.uint16) * 257) == pytest.approx(level, rel=1e-5)


def test_texture_is_not_taken_for_noise() -> None:
    rows, columns = np.mgrid[:200, :200]
    waves = 128 + 40 * np.sin(rows / 1.5) + 40 * np.sin(columns / 2.5)
    assert noise_level(waves.astype(np.uint8)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 500, 3), (17, 400), (18, 18, 3), (60, 60)])
def test_a_picture_that_is_too_small_has_no_noise(shape: tuple[int, ...]) -> None:
    assert noise_level(noisy(np.full(shape, 128), 30)) == 0


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_flat_picture_has_no_noise(value: int, dtype: Any) -> None:
    assert noise_level(np.full((100, 100, 3), value, dtype)) == 0


def test_black_and_white_parts_do_not_hide_noise() -> None:
    pixels = noisy(ramp(), 10)
    pixels[:, :120] = 255
    assert noise_level(pixels) == pytest.approx(10, rel=0.2)
