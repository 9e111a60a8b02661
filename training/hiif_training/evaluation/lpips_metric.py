"""The LPIPS metric, available where its package is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import OptionError


class Lpips:
    """Perceptual distance by AlexNet (Zhang et al. 2018, arXiv 1801.03924)."""

    def __init__(self) -> None:
        """OptionError where the package lpips is missing; loading it may download AlexNet's weights once."""
        if find_spec("lpips") is None:
            raise OptionError("--lpips needs the package lpips, which is not installed: pip install lpips")
        import lpips

        self._network: Any = lpips.LPIPS(net="alex", verbose=False).eval()

    def __call__(self, prediction: NDArray[np.float32], truth: NDArray[np.float32], shave: int) -> float:
        """Return the distance of two RGB pictures [H, W, 3] in [0, 1], with `shave` pixels cropped at every side."""
        import torch

        inner = slice(shave, -shave or None)
        pair = [
            torch.from_numpy(np.ascontiguousarray(p[inner, inner].transpose(2, 0, 1)))[None]
            for p in (prediction, truth)
        ]
        with torch.no_grad():
            return float(self._network(*pair, normalize=True))
