"""The resources that a training run may use. They do not change the result beyond rounding."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from hiif_deploy.errors import EngineError, OptionError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Machine:
    """Device, worker processes and memory of a training run."""

    device: Device = "auto"
    """`auto` selects CUDA where PyTorch finds it."""
    workers: int = 0
    """Processes that draw samples, per training process; 0 draws them in the training process itself."""
    cache: int = 1 << 30
    """Bytes of decoded pictures that a training process and its workers cache together."""
    compile: bool = False
    """Let torch.compile fuse the model; the first step then takes minutes."""

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise OptionError(f"device {self.device!r}: expected one of {', '.join(get_args(Device))}")
        if min(self.workers, self.cache) < 0:
            raise OptionError(f"workers and cache must be at least 0: {self}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise EngineError("device cuda: PyTorch finds no usable CUDA device; see nvidia-smi, or use --device cpu")

    @property
    def accelerator(self) -> str:
        """Return `cpu` or `cuda`, with `auto` resolved."""
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device

    @property
    def cache_per_process(self) -> int:
        """Return the cache in bytes of each process that draws samples."""
        return self.cache // max(1, self.workers)


@dataclass(frozen=True)
class World:
    """The processes of a run, as `torchrun` reports them in environment variables."""

    process: int = 0
    """Number of this process, from 0."""
    processes: int = 1
    """Number of processes on all nodes."""
    per_node: int = 1
    """Number of processes on this node."""

    @staticmethod
    def of_environment() -> World:
        """Read torchrun's variables; a single process where they are missing."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        return World(*(int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 1), strict=True)))
