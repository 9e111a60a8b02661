"""What a training run may use of the machine. Nothing here changes the result beyond rounding."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from hiif_deploy.errors import EngineError, OptionError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Machine:
    """Device, processes and memory."""

    device: Device = "auto"
    """`auto` takes CUDA where PyTorch finds it."""
    workers: int = 0
    """Processes that draw samples, per training process; 0 draws them in the training process itself."""
    cache: int = 1 << 30
    """Bytes of decoded pictures that a training process and its workers keep together."""
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
        """`cpu` or `cuda`."""
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device

    @property
    def cache_per_process(self) -> int:
        """Bytes for each process that draws samples."""
        return self.cache // max(1, self.workers)


@dataclass(frozen=True)
class World:
    """The processes of a run, as `torchrun` tells each of them."""

    process: int = 0
    """Number of this one."""
    processes: int = 1
    """How many there are, on all nodes."""
    per_node: int = 1
    """How many there are on this node."""

    @staticmethod
    def of_environment() -> World:
        """From torchrun's variables; one process where there are none."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        return World(*(int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 1), strict=True)))
