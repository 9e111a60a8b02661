"""PSNR and SSIM: worked out by hand, and by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hiif_deploy.errors import FrameError
from hiif_training.evaluation.metrics import luma, psnr_luma, psnr_rgb, ssim

TRUTH = np.random.default_rng(4).random((40, 30, 3), dtype=np.float32) * np.float32(0.8)


def test_an_error_of_one_tenth_is_twenty_decibels_on_colours() -> None:
    assert psnr_rgb(TRUTH + np.float32(0.1), TRUTH, 0) == pytest.approx(20, abs=1e-4)


def test_luma_weighs_the_colours() -> None:
    for channel, weight in enumerate((65.738, 129.057, 25.064)):
        wrong = TRUTH.copy()
        wrong[..., channel] += np.float32(0.1)
        assert psnr_luma(wrong, TRUTH, 2) == pytest.approx(-20 * math.log10(0.1 * weight / 256), abs=1e-4)


@pytest.mark.parametrize("measure", [psnr_luma, psnr_rgb])
def test_the_border_is_left_out_and_overshoot_is_clamped(measure: type) -> None:
    wrong = np.zeros_like(TRUTH)
    wrong[3:-3, 3:-3] = TRUTH[3:-3, 3:-3]
    assert measure(wrong, TRUTH, 3) == math.inf
    assert measure(wrong, TRUTH, 2) < 40
    white = np.ones_like(TRUTH)
    assert measure(white * np.float32(1.5), white, 0) == math.inf


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(FrameError, match="cannot be compared with 15 pixels shaved"):
        psnr_rgb(TRUTH, TRUTH, 15)
    with pytest.raises(FrameError, match="cannot be compared"):
        ssim(TRUTH, TRUTH[:-1], 0, on_luma=True)


@pytest.mark.parametrize("on_luma", [True, False])
def test_ssim_is_one_for_equal_pictures_and_falls_with_noise(on_luma: bool) -> None:
    noise = np.random.default_rng(5).normal(0, 0.1, TRUTH.shape).astype(np.float32)
    assert ssim(TRUTH, TRUTH, 2, on_luma=on_luma) == pytest.approx(1)
    little, much = (ssim(TRUTH + noise * np.float32(factor), TRUTH, 2, on_luma=on_luma) for factor in (0.3, 1))
    assert 1 > little > much > 0


@pytest.mark.parametrize("on_luma", [True, False])
def test_ssim_is_that_of_torchmetrics(on_luma: bool) -> None:
    torch, image = pytest.importorskip("torch"), pytest.importorskip("torchmetrics.functional.image")
    noisy = np.clip(TRUTH + np.random.default_rng(6).normal(0, 0.05, TRUTH.shape).astype(np.float32), 0, 1)
    pair = []
    for picture in (noisy, TRUTH):
        inner = picture[3:-3, 3:-3].astype(np.float64)
        channels = luma(inner)[..., None] if on_luma else inner
        pair.append(torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1)))[None])
    expected = float(image.structural_similarity_index_measure(*pair, data_range=1.0))
    # Both in float64 but for its window, which is float32: 121 weights of relative error 2^-24 each.
    assert ssim(noisy, TRUTH, 3, on_luma=on_luma) == pytest.approx(expected, abs=121 * 2**-24)


def test_ssim_of_a_picture_smaller_than_its_window_is_refused() -> None:
    with pytest.raises(FrameError, match="SSIM needs more than 5 pixels on a side, and 4x14 are left"):
        ssim(TRUTH, TRUTH, 13, on_luma=True)


def test_ssim_of_a_constant_shift_is_its_luminance_term() -> None:
    dark, bright = np.full((30, 30, 3), 0.25, np.float32), np.full((30, 30, 3), 0.5, np.float32)
    expected = (2 * 0.25 * 0.5 + 0.01**2) / (0.25**2 + 0.5**2 + 0.01**2)
    assert ssim(dark, bright, 0, on_luma=False) == pytest.approx(expected, abs=1e-5)
