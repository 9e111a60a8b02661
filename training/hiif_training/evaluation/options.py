"""Options of an evaluation: engine, statistics, device, tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hiif_deploy.errors import OptionError
from hiif_training.evaluation.overlapping import Tiles

EvaluationEngine = Literal["auto", "torch", "onnxruntime", "openvino", "native", "tensorrt"]
"""Engines that can run the evaluated model."""
WHOLE = 1 << 30
"""Rows of a group that holds any picture: statistics over all of it, padded as published."""


def group_rows(rows: int | None, multiple: int, scale: float) -> int | None:
    """Return the rows per statistics group; None for all.

    At integer scales the published evaluation pads pictures for window encoders; the runtime pads so in groups only, so
    one group of all rows is used.
    """
    return rows or (WHOLE if multiple > 1 and scale == int(scale) else None)


@dataclass(frozen=True)
class EvaluatorOptions:
    """Options under which a model is run for evaluation."""

    engine: EvaluationEngine = "auto"
    """`auto` selects PyTorch for checkpoints and ONNX Runtime for bundles."""
    group_rows: int | None = None
    """Output rows per statistics group, 300 or 100 as published; None for all rows together."""
    provider: str = "cpu"
    """Execution provider of ONNX Runtime; `cpu` or `cuda` for PyTorch."""
    threads: int = 0
    """Processor threads; 0 uses all that this process may use."""
    tiles: Tiles | None = None
    """With PyTorch, splits pictures up to ×4 into overlapping tiles and averages their outputs."""

    def __post_init__(self) -> None:
        if self.engine not in get_args(EvaluationEngine):
            raise OptionError(f"--engine {self.engine!r}: expected one of {', '.join(get_args(EvaluationEngine))}")
        if self.provider != "cpu" and self.engine not in ("auto", "torch", "onnxruntime"):
            raise OptionError(f"--provider {self.provider} is for ONNX Runtime and PyTorch, not for {self.engine}")
