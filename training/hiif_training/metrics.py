"""How far a prediction lies from the truth, by the published protocol (design/model.md E5, E6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import FrameError

LUMA = (65.738, 129.057, 25.064)
"""Weights of red, green and blue, of 256."""

Array = NDArray[np.float32]


def psnr_luma(prediction: Array, truth: Array, shave: int) -> float:
    """PSNR in dB of the luma of two pictures [H, W, 3] in [0, 1], `shave` pixels left out at every side.

    The prediction is clamped, not rounded to 8 bits.
    """
    return _psnr(luma(_difference(prediction, truth, shave)))


def psnr_rgb(prediction: Array, truth: Array, shave: int) -> float:
    """The same over red, green and blue together."""
    return _psnr(_difference(prediction, truth, shave))


def ssim(prediction: Array, truth: Array, shave: int, *, on_luma: bool) -> float:
    """Structural similarity (torchmetrics: Gaussian window of 11, sigma 1.5) of luma or colours, the same part."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    _difference(prediction, truth, shave)
    pair = []
    for picture in (np.clip(prediction, 0, 1), truth):
        inner = _inner(picture.astype(np.float64), shave)
        channels = luma(inner)[..., None] if on_luma else inner
        pair.append(torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1)))[None])
    answer: Any = structural_similarity_index_measure(pair[0], pair[1], data_range=1.0)
    return float(answer)


def luma(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """[H, W, 3] → [H, W], without the offset of 16, which differences do not have."""
    weighted: NDArray[np.float64] = colours @ np.array(LUMA) / 256
    return weighted


def _difference(prediction: Array, truth: Array, shave: int) -> NDArray[np.float64]:
    if prediction.shape != truth.shape or prediction.ndim != 3 or min(truth.shape[:2]) <= 2 * shave:
        raise FrameError(f"pictures {prediction.shape} and {truth.shape} cannot be compared with {shave} pixels shaved")
    return _inner(np.clip(prediction, 0, 1).astype(np.float64) - truth, shave)


def _inner(picture: NDArray[np.float64], shave: int) -> NDArray[np.float64]:
    return picture[shave : picture.shape[0] - shave, shave : picture.shape[1] - shave]


def _psnr(difference: NDArray[np.float64]) -> float:
    error = float(np.mean(difference**2))
    return -10 * math.log10(error) if error > 0 else math.inf
