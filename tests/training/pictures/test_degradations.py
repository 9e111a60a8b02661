"""Degradations of training inputs: seeded, as strong as said, and none where none is chosen."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hiif_deploy.errors import OptionError
from hiif_training.pictures import degradations
from hiif_training.pictures.degradations import PROBABILITIES, Degradations, downscale

Pixels = NDArray[np.uint8]
SIDE = 24


@pytest.fixture(scope="module")
def crop() -> Image.Image:
    """A colourful smooth crop with an edge."""
    y, x = np.mgrid[:48, :48] / 8
    channels = [127 + 90 * np.sin(x + k * y) for k in range(3)]
    pixels = np.dstack(channels).astype(np.uint8)
    pixels[:, 24:] = 255 - pixels[:, 24:]
    return Image.fromarray(pixels)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def grey(level: int, side: int = 64) -> Pixels:
    return np.full((side, side, 3), level, dtype=np.uint8)


def distance(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_without_degradations_a_crop_is_downscaled_by_bicubic(crop: Image.Image) -> None:
    expected = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(downscale(crop, SIDE, Degradations(), random()), expected)


@pytest.mark.parametrize("name", [name for name in PROBABILITIES if name != "jpeg_twice"])
def test_each_degradation_changes_the_crop_and_depends_on_the_seed_alone(crop: Image.Image, name: str) -> None:
    chosen = replace(Degradations(), **{name: 1.0})
    plain = downscale(crop, SIDE, Degradations(), random())
    first, again = (downscale(crop, SIDE, chosen, random(4)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (SIDE, SIDE, 3)
    assert first.dtype == np.uint8
    assert 0 < distance(first, plain) < 40


def test_a_probability_is_the_share_of_degraded_crops(crop: Image.Image) -> None:
    plain, generator = downscale(crop, SIDE, Degradations(), random()), random()
    found = [downscale(crop, SIDE, Degradations(noise=0.25), generator) for _ in range(200)]
    changed = sum(not np.array_equal(pixels, plain) for pixels in found)
    # Binomial: 50 ± 6.1; five standard deviations.
    assert 20 < changed < 80


@pytest.mark.parametrize("seed", range(6))
def test_noise_has_the_chosen_strength_whatever_its_kind(seed: int) -> None:
    # Of Poisson noise at white the upper half is cut off; at grey 128 its variance is half of that at white.
    noisy = degradations.add_noise(grey(128), Degradations(noise_sigma=(10, 10)), random(seed))
    strength = float((noisy - 128.0).std())
    assert min(abs(strength - 10), abs(strength - 10 * np.sqrt(128 / 255))) < 0.6


def test_some_noise_is_correlated_between_neighbours_and_some_is_not() -> None:
    def correlation(pixels: Pixels) -> float:
        values = pixels[..., 0] - 128.0
        return float(np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1])

    chosen = Degradations(noise_sigma=(10, 10))
    found = [correlation(degradations.add_noise(grey(128), chosen, random(seed))) for seed in range(24)]
    assert 4 <= sum(value > 0.3 for value in found) <= 16
    assert 8 <= sum(abs(value) < 0.1 for value in found) <= 20


def test_stronger_blur_removes_more_detail() -> None:
    noise = random().integers(0, 256, (32, 32, 3)).astype(np.uint8)
    weak, strong = (
        degradations.blur(noise, Degradations(blur_sigma=(sigma, sigma)), random()).std() for sigma in (0.4, 2.0)
    )
    assert noise.std() > weak > 2 * strong


def test_blur_keeps_a_flat_area() -> None:
    np.testing.assert_array_equal(degradations.blur(grey(77), Degradations(), random()), grey(77))


def test_halved_chroma_keeps_luma(crop: Image.Image) -> None:
    pixels = np.asarray(crop)
    planes = [
        np.asarray(Image.fromarray(each).convert("YCbCr")).astype(float)
        for each in (pixels, degradations.halve_chroma(pixels, Degradations(), random()))
    ]
    luma, blue, _ = np.abs(planes[0] - planes[1]).mean((0, 1))
    assert luma < 1.5 < blue


def test_a_lower_quality_changes_more(crop: Image.Image) -> None:
    pixels = np.asarray(crop)
    low, high = (
        distance(degradations.compress(pixels, Degradations(jpeg_quality=(q, q)), random(1)), pixels) for q in (15, 95)
    )
    assert low > 2 * high > 0


@pytest.mark.parametrize("subsampling", [degradations.FULL_CHROMA, degradations.HALF_CHROMA])
def test_compression_is_that_of_a_jpeg_file(crop: Image.Image, subsampling: int) -> None:
    file = io.BytesIO()
    crop.save(file, "JPEG", quality=40, subsampling=subsampling)
    with Image.open(file) as picture:
        expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(degradations.through_jpeg(np.asarray(crop), 40, subsampling), expected)


def test_a_crop_may_be_compressed_twice(crop: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    once = degradations.through_jpeg

    def counted(pixels: Pixels, quality: int, subsampling: int) -> Pixels:
        sizes.append(pixels.shape)
        return once(pixels, quality, subsampling)

    monkeypatch.setattr(degradations, "through_jpeg", counted)
    degradations.compress(np.asarray(crop), Degradations(jpeg_twice=1.0), random())
    assert len(sizes) == 2
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"jpeg": 1.5}, r"degrade\.jpeg is 1\.5, expected a probability, 0 to 1"),
        ({"jpeg_quality": (0, 50)}, r"degrade\.jpeg_quality is \[0, 50\], expected 1 ≤ low ≤ high ≤ 100"),
        ({"noise_sigma": (9.0, 3.0)}, r"degrade\.noise_sigma is \[9\.0, 3\.0\], expected 0 ≤ low ≤ high ≤ 255"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Degradations(**values)  # type: ignore[arg-type]


def test_a_model_is_trained_for_the_degradations_that_occur() -> None:
    assert Degradations(blur=1.0, jpeg_quality=(30, 60)).trained_for() == {}
    chosen = Degradations(jpeg=0.5, jpeg_quality=(30, 60), noise=0.1)
    assert chosen.trained_for() == {"jpeg": [30, 60], "noise": [1.0, 15.0]}


def test_a_clip_is_worse_the_higher_its_rate_factor(crop: Image.Image) -> None:
    plain = downscale(crop, SIDE, Degradations(), random())
    best, worst = (downscale(crop, SIDE, Degradations(h264=1, h264_crf=(crf, crf)), random(2)) for crf in (1, 45))
    assert distance(best, plain) < distance(worst, plain)


def test_the_last_frame_of_a_clip_lies_where_the_crop_is() -> None:
    y, x = np.mgrid[:48, :48]
    pixels = np.dstack([np.where((y - 20) ** 2 + (x - 30) ** 2 < 60, 220, 30)] * 3).astype(np.uint8)
    chosen = Degradations(h264=1, h264_crf=(5, 5))
    assert all(distance(degradations.compress_clip(pixels, chosen, random(seed)), pixels) < 3 for seed in range(4))


def test_crops_of_odd_sides_keep_their_size() -> None:
    assert degradations.compress_clip(grey(90, 23), Degradations(h264=1), random()).shape == (23, 23, 3)
