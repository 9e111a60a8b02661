"""Evaluates a checkpoint with the PyTorch reference module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.evaluation.options import EvaluatorOptions, group_rows
from hiif_training.evaluation.overlapping import upscale_overlapping
from hiif_training.models.reference import upscale


class TorchEvaluator:
    """A checkpoint, run by the PyTorch reference module."""

    spec: Mapping[str, Any]

    def __init__(self, path: Path, scale: float, options: EvaluatorOptions) -> None:
        if options.provider not in ("cpu", "cuda"):
            raise OptionError(f"--provider {options.provider}: a checkpoint runs on cpu or cuda")
        device = options.provider
        if options.threads:
            torch.set_num_threads(options.threads)
        loaded = load_checkpoint(path)
        self.name = path.stem
        self.spec = loaded.spec
        self.engine = f"torch {device}"
        self.fixed_scale = loaded.model.traits.fixed_scale
        self._model = loaded.model.to(device)
        self._rows = group_rows(options.group_rows, self._model.encoder.size_multiple, scale)
        self._tiles = options.tiles if scale in (2, 3, 4) else None

    def upscale(self, low: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
        """Upscale an RGB picture [h, w, 3] to [H, W, 3] in [0, 1], not rounded to 8 bits."""
        if self._tiles is None:
            return self._upscale(low, size)
        return upscale_overlapping(self._upscale, low, size, self._tiles)

    def _upscale(self, low: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
        return upscale(self._model, low, size, group_rows=self._rows, clip_cell=True)
