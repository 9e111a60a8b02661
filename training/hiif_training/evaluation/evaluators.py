"""The models that can be evaluated: a checkpoint in PyTorch, a bundle on any engine of the runtime, or bicubic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.engines import Engine as EngineName
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.support.extras import require_extra
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_training.checkpoints.suffixes import READABLE
from hiif_training.evaluation.options import EvaluatorOptions, group_rows
from hiif_training.pictures.resize import upscale_bicubic

BICUBIC = "bicubic"
"""Name of the bicubic baseline among the models."""


class Evaluator(Protocol):
    """Upscales pictures as the published evaluation does: the cell is clipped (design/model.md E3)."""

    name: str
    """Name of the evaluated model."""
    spec: Mapping[str, Any]
    """`{name, args}` of the model; empty for bicubic."""
    engine: str
    """Description of the engine that runs the model."""
    fixed_scale: int | None
    """The only factor that the model upscales by; None where it takes any."""

    def upscale(self, low: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
        """Upscale an RGB picture [h, w, 3] to [H, W, 3] in [0, 1], not rounded to 8 bits."""
        ...


class Bicubic:
    """MATLAB's bicubic: the baseline that every model must beat."""

    name = BICUBIC
    spec: Mapping[str, Any] = {}
    engine = "numpy"
    fixed_scale: int | None = None

    def upscale(self, low: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
        """Upscale an RGB picture [h, w, 3] to [H, W, 3] in [0, 1], not rounded to 8 bits."""
        return upscale_bicubic(low, size)


class BundleEvaluator:
    """A bundle, run by the runtime on any of its engines."""

    fixed_scale: int | None = None

    def __init__(self, upscaler: Upscaler) -> None:
        self.name = upscaler.contract.name
        self.spec = upscaler.contract.model
        self.engine = upscaler.description
        self._upscaler = upscaler

    def upscale(self, low: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
        """Upscale an RGB picture [h, w, 3] to [H, W, 3] in [0, 1], not rounded to 8 bits."""
        return np.asarray(self._upscaler.upscale(low / np.float32(255), size=size), dtype=np.float32)


@contextmanager
def open_evaluator(model: str, scale: float, options: EvaluatorOptions) -> Iterator[Evaluator]:
    """Open a checkpoint file, a bundle's folder or shipped name, or `bicubic`, for pictures at one scale.

    OptionError where the engine cannot run the model.
    """
    is_checkpoint = Path(model).is_file() and Path(model).suffix in READABLE
    engine = options.engine
    if model == BICUBIC:
        if options.provider != "cpu":
            raise OptionError(f"--provider {options.provider}: bicubic runs on the processor; leave it out")
        yield Bicubic()
    elif engine == "torch" or (engine == "auto" and is_checkpoint):
        if not is_checkpoint:
            raise OptionError(f"--engine torch runs checkpoints, and {model} is none: name the .pth it was made from")
        require_extra("train")
        from hiif_training.evaluation.torch_evaluator import TorchEvaluator

        yield TorchEvaluator(Path(model), scale, options)
    elif is_checkpoint:
        raise OptionError(f"--engine {engine} runs bundles: first hiif-deploy export {model} -o DIR, then evaluate DIR")
    else:
        bundle = open_bundle(model)
        rows = group_rows(options.group_rows, bundle.contract.encoder.size_multiple, scale)
        render = RenderOptions(group_rows=rows, clip_cell=True)
        name: EngineName = "onnxruntime" if engine == "auto" else engine
        chosen = EngineOptions(engine=name, provider=options.provider, threads=options.threads)
        with Upscaler(bundle, engine=chosen, options=render) as upscaler:
            yield BundleEvaluator(upscaler)
