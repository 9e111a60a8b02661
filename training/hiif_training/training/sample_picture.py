"""One small picture enlarged by the model in training, beside its pixels and bicubic: what TensorBoard shows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hiif_deploy.images.samples import sample
from hiif_training.models.implicit import ImplicitModel
from hiif_training.models.reference import enlarge

SIDE, SCALE = 48, 4


def enlarged_sample(model: ImplicitModel) -> NDArray[np.uint8]:
    """[192, 576, 3]: input pixels, bicubic, the model's answer."""
    whole = sample("chelsea")
    top, left = (whole.shape[0] - SIDE) // 3, (whole.shape[1] - SIDE) // 3
    small = np.ascontiguousarray(whole[top : top + SIDE, left : left + SIDE])
    size = (SIDE * SCALE, SIDE * SCALE)
    picture = Image.fromarray(small)
    ways = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    panels = [np.asarray(picture.resize(size, way)) for way in ways]
    with torch.random.fork_rng():
        answer = enlarge(model, small, size)
    panels.append(np.rint(answer * 255).astype(np.uint8))
    return np.concatenate(panels, axis=1)
