"""What happens between the steps of a run: progress, curves, sample pictures, the state on disk."""

from __future__ import annotations

import csv
import io
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from hiif_deploy.progress import Progress
from hiif_training.checkpoint import write_whole
from hiif_training.data import Sample
from hiif_training.recipe import Recipe
from hiif_training.sample_picture import enlarged_sample
from hiif_training.schedule import learning_rate

STATE_FILE = "state.pt"
CURVE_FILE = "loss.csv"
COLUMNS = ("step", "loss", "learning_rate", "seconds")


class StepCallback(Callback):
    """A callback that is told of whole optimizer steps, however many parts they have."""

    _told = 0

    @override
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """The step that the run starts or goes on from."""
        self._told = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Sample, batch_idx: int
    ) -> None:
        """Count the part; call `on_step` where it ends a step."""
        self.on_part(outputs, batch)
        if trainer.global_step > self._told:
            self._told = trainer.global_step
            self.on_step(trainer, module)

    def on_part(self, outputs: Any, batch: Sample) -> None:
        """After each part."""

    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """After each optimizer step; `trainer.global_step` counts it."""


class ShowProgress(StepCallback):
    """Steps, time and ETA on stderr."""

    def __init__(self, recipe: Recipe, first_step: int, *, enabled: bool) -> None:
        self._progress = Progress("training", recipe.steps, unit="steps", enabled=enabled, start=first_step)

    @override
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the bar."""
        super().on_train_start(trainer, module)
        self._progress.__enter__()

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """One more."""
        self._progress.advance(1)

    @override
    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Take the bar away, however the run ended."""
        self._progress.__exit__(None, None, None)


class CountDamaged(StepCallback):
    """Names damaged pictures when they are first met, and counts them at the end."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    @override
    def on_part(self, outputs: Any, batch: Sample) -> None:
        """Name what is new."""
        for name in sorted(batch.damaged - self.seen):
            print(f"{name}: not a readable picture; skipped", file=sys.stderr, flush=True)
        self.seen |= batch.damaged

    @override
    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """The count."""
        if self.seen:
            print(f"{len(self.seen)} damaged pictures were skipped; remove or replace them", file=sys.stderr)


class SaveState(StepCallback):
    """Every `save_every` steps and at the end: a row of the curve, TensorBoard, a sample picture, the state."""

    def __init__(self, recipe: Recipe, folder: Path, first_step: int) -> None:
        self._recipe = recipe
        self._folder = folder
        self._first_step = first_step
        self._began = time.monotonic()
        self._total = torch.zeros(())
        self._parts = 0

    @override
    def on_part(self, outputs: Any, batch: Sample) -> None:
        """Sum the loss since the last row."""
        # Lightning divides the loss by the number of parts before it hands it on.
        self._total = self._total.to(outputs["loss"].device) + outputs["loss"].detach().float()
        self._parts += 1

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Write what is due. Every process takes part: saving waits for all of them."""
        step = trainer.global_step
        if step % self._recipe.save_every and step != self._recipe.steps:
            return
        loss = self._mean_loss(trainer)
        if trainer.is_global_zero:
            self._write_curve(step, loss)
            self._show(module, step, loss)
        trainer.save_checkpoint(self._folder / STATE_FILE)

    def _mean_loss(self, trainer: Trainer) -> float:
        steps = self._parts / self._recipe.accumulate
        mean: Tensor = trainer.strategy.reduce(self._total / steps, reduce_op="mean")
        self._total, self._parts = torch.zeros(()), 0
        return float(mean)

    def _write_curve(self, step: int, loss: float) -> None:
        """Rows beyond this step are of a run that was killed between its curve and its state."""
        path = self._folder / CURVE_FILE
        kept = [row for row in read_curve(path) if int(row["step"]) < step]
        rate, seconds = learning_rate(self._recipe, step - 1), time.monotonic() - self._began
        row = dict(zip(COLUMNS, (str(step), f"{loss:.6f}", f"{rate:.3e}", f"{seconds:.1f}"), strict=True))
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, row])
        write_whole(path, lambda file: file.write(text.getvalue().encode()))

    def _show(self, module: Any, step: int, loss: float) -> None:
        writer = self._writer
        writer.add_scalar("loss", loss, step)
        writer.add_scalar("learning rate", learning_rate(self._recipe, step - 1), step)
        writer.add_image("input, bicubic, answer (x4)", enlarged_sample(module.model), step, dataformats="HWC")
        writer.flush()

    @cached_property
    def _writer(self) -> Any:
        # Events beyond the first step are of a run that was killed after its last state.
        return SummaryWriter(str(self._folder), purge_step=self._first_step + 1)


def read_curve(path: Path) -> list[dict[str, str]]:
    """Rows of a curve, none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
