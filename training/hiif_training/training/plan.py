"""Estimates the cost of a run from a short probe; nothing is written."""

from __future__ import annotations

import datetime
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from hiif_deploy.support.durations import duration
from hiif_training.pictures.store import check_sizes
from hiif_training.training.callbacks import STATE_FILE, StepCallback
from hiif_training.training.data import Crops
from hiif_training.training.kept_crops import KeptCrops, crops_of
from hiif_training.training.loop import (
    check_machine,
    finished_steps,
    fit,
    make_crops,
    make_loader,
    make_module,
    make_trainer,
)
from hiif_training.training.machine import Machine, World
from hiif_training.training.recipe import Recipe

PROBE_STEPS = 4
"""Steps of the probe; the first one warms up and is not counted."""


@dataclass(frozen=True)
class TrainingPlan:
    """Cost and progress of a run before it starts."""

    parameters: int
    """Number of parameters of the whole model."""
    pictures: int
    """Number of training pictures found."""
    megapixels: float
    """Megapixels of all training pictures together."""
    steps: int
    """Number of optimizer steps of the whole run."""
    done: int
    """Steps that the output folder already holds."""
    share: int
    """Crops that one process computes at once."""
    processes: int
    """Number of training processes on all nodes."""
    device: str
    """Device that trains: `cpu` or `cuda`."""
    memory: int
    """Peak bytes of the probe: resident on a CPU, allocated on a GPU."""
    step_seconds: float
    """Seconds per step, drawing its samples included."""
    data_seconds: float
    """Seconds for drawing one step's samples in one process."""
    kept_seconds: float = 0.0
    """Seconds before the first step for what is computed once per crop."""

    @property
    def seconds(self) -> float:
        """Return the seconds until the end of the run."""
        return self.kept_seconds + self.step_seconds * (self.steps - self.done)

    def rows(self) -> list[tuple[str, str]]:
        """Return label and value of every line of the plan."""
        now = datetime.datetime.now().astimezone()
        end = now + datetime.timedelta(seconds=self.seconds)
        return [
            ("parameters", f"{self.parameters:,}"),
            ("pictures", f"{self.pictures:,} ({self.megapixels:.1f} megapixels)"),
            ("steps", f"{self.steps:,}" + (f", {self.done:,} of them done" if self.done else "")),
            ("crops at once", f"{self.share} in each of {self.processes} processes on {self.device}"),
            ("memory", f"{self.memory / 2**20:,.0f} MiB"),
            ("time per step", f"{self.step_seconds:.3f} s (drawing samples alone: {self.data_seconds:.3f} s)"),
            *([("crops, once", duration(self.kept_seconds))] if self.kept_seconds else []),
            ("time left", duration(self.seconds)),
            ("expected end", f"{end:%Y-%m-%d %H:%M}"),
        ]


def plan(recipe: Recipe, folder: Path, machine: Machine) -> TrainingPlan:
    """Probe a few steps of the run that `train` would start or resume, and discard them."""
    world = World.of_environment()
    check_machine(recipe, machine, world)
    state = folder / STATE_FILE
    done = finished_steps(state, recipe) if state.exists() else 0
    module = make_module(recipe, machine, is_resumed=done > 0)
    crops = make_crops(module, machine)
    paths = crops.pictures.paths
    clock = _Clock()
    with TemporaryDirectory() as probe:
        kept = KeptCrops(crops, module.fixed_values, Path(probe), PROBE_STEPS) if recipe.reuse > 1 else None
        crop_seconds = _filling(kept) if kept else 0.0
        loader = make_loader(crops, machine, world, kept=kept)
        fit(lambda: make_trainer(recipe, machine, world, [clock], steps=PROBE_STEPS), module, loader)
    return TrainingPlan(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        pictures=len(paths),
        megapixels=check_sizes(paths, 1) / 1e6,
        steps=recipe.steps,
        done=done,
        share=loader.step_sampler.share,
        processes=world.processes,
        device=machine.accelerator,
        memory=_peak_memory(machine),
        step_seconds=_pace(clock.ends),
        kept_seconds=crop_seconds * (0 if done else crops_of(recipe)),
        data_seconds=_drawing(crops, loader.step_sampler.share * recipe.accumulate),
    )


class _Clock(StepCallback):
    """Records the time at which each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def _pace(ends: Sequence[float]) -> float:
    return (ends[-1] - ends[0]) / max(1, len(ends) - 1)


def _drawing(crops: Crops, count: int) -> float:
    """Return the seconds for drawing `count` samples that were not drawn before."""
    began = time.perf_counter()
    for number in range(len(crops) - count, len(crops)):
        crops[number]
    return time.perf_counter() - began


def _filling(kept: KeptCrops) -> float:
    """Return the seconds per crop for what is computed once."""
    began = time.perf_counter()
    kept.fill()
    return (time.perf_counter() - began) / kept.count


def _peak_memory(machine: Machine) -> int:
    if machine.accelerator == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
