"""Upscales one small picture with the model in training, beside its pixels and bicubic, for TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hiif_deploy.images.samples import sample
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.reference import upscale

SIDE, SCALE = 48, 4


def upscaled_sample(model: ImplicitModel) -> NDArray[np.uint8]:
    """Return [H, 3·H, 3]: input pixels, bicubic, and the model's output side by side, ×4 where the model can."""
    whole = sample("chelsea")
    top, left = (whole.shape[0] - SIDE) // 3, (whole.shape[1] - SIDE) // 3
    small = np.ascontiguousarray(whole[top : top + SIDE, left : left + SIDE])
    side = SIDE * (model.traits.fixed_scale or SCALE)
    size = (side, side)
    picture = Image.fromarray(small)
    ways = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    panels = [np.asarray(picture.resize(size, way)) for way in ways]
    with torch.random.fork_rng():
        output = upscale(model, small, size)
    panels.append(np.rint(output * 255).astype(np.uint8))
    return np.concatenate(panels, axis=1)
