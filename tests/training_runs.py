"""A small model and pictures for training runs in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODEL: dict[str, Any] = {
    "name": "hiif",
    "args": {
        "encoder_spec": {"name": "edsr-mini", "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True}},
        "blocks": 2,
        "hidden_dim": 8,
        "mlp_dim": 8,
        "bits": "exact",
    },
}


def noise_pictures(folder: Path) -> Path:
    """Write three small pictures of noise and return their folder."""
    folder.mkdir(exist_ok=True)
    for n in range(3):
        noise = np.random.default_rng(n).integers(0, 256, (30, 34, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{n}.png")
    return folder
