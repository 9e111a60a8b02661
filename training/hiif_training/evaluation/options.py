"""How a model is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hiif_deploy.errors import OptionError
from hiif_training.evaluation.overlapping import Tiles

Engine = Literal["auto", "torch", "onnxruntime", "openvino", "native", "tensorrt"]
"""What runs the model."""
WHOLE = 1 << 30
"""Rows of a group that holds any picture: statistics over all of it, padding as published."""


def group_rows(rows: int | None, multiple: int, scale: float) -> int | None:
    """Rows per group of statistics. Window encoders are padded as published at whole scales, which groups do."""
    return rows or (WHOLE if multiple > 1 and scale == int(scale) else None)


@dataclass(frozen=True)
class EvaluatorOptions:
    """How a model is run."""

    engine: Engine = "auto"
    """`auto` takes PyTorch for checkpoints and ONNX Runtime for bundles."""
    group_rows: int | None = None
    """Output rows of a group of statistics, 300 or 100 as published; None takes all rows together."""
    provider: str = "cpu"
    """Execution provider of ONNX Runtime; `cpu` or `cuda` for PyTorch."""
    threads: int = 0
    """Processor threads; 0 takes all that this process may use."""
    tiles: Tiles | None = None
    """With PyTorch, cut pictures up to ×4 into overlapping tiles and average their answers."""

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise OptionError(f"--engine {self.engine!r}: expected one of {', '.join(get_args(Engine))}")
        if self.provider != "cpu" and self.engine not in ("auto", "torch", "onnxruntime"):
            raise OptionError(f"--provider {self.provider} is for ONNX Runtime and PyTorch, not for {self.engine}")
