"""A checkpoint, evaluated by the plain PyTorch module."""

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
from hiif_training.evaluation.overlapping import enlarge_overlapping
from hiif_training.models.reference import enlarge


class TorchEvaluator:
    """A checkpoint, run by the plain PyTorch module."""

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
        self._model = loaded.model.to(device)
        self._rows = group_rows(options.group_rows, self._model.encoder.size_multiple, scale)
        self._tiles = options.tiles if scale in (2, 3, 4) else None

    def enlarge(self, low: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
        """See `Evaluator`."""
        if self._tiles is None:
            return self._enlarge(low, size)
        return enlarge_overlapping(self._enlarge, low, size, self._tiles)

    def _enlarge(self, low: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
        return enlarge(self._model, low, size, group_rows=self._rows, clip_cell=True)
