"""Callbacks between the steps of a run: progress, curves, sample pictures, the state on disk."""

from __future__ import annotations

import csv
import io
import logging
import signal
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from hiif_deploy.errors import Terminated
from hiif_deploy.support.progress import Progress
from hiif_training.checkpoints.checkpoint import write_whole
from hiif_training.training.data import Sample
from hiif_training.training.recipe import Recipe
from hiif_training.training.sample_picture import upscaled_sample
from hiif_training.training.schedule import learning_rate

logger = logging.getLogger(__name__)
STATE_FILE = "state.pt"
CURVE_FILE = "loss.csv"
COLUMNS = ("step", "loss", "learning_rate", "seconds")


LOSS_INTERVAL = 0.5
"""Seconds between updates of the mean loss in the progress bar."""


class MeanLoss:
    """Mean loss of the steps since it was last taken."""

    def __init__(self, accumulate: int) -> None:
        self._accumulate = accumulate
        self.total, self.parts = torch.zeros(()), 0

    def add(self, loss: Tensor) -> None:
        """Add the scalar loss [ ] of one part, which Lightning has divided by the number of parts of a step."""
        self.total = self.total.to(loss.device) + loss.detach().float()
        self.parts += 1

    def take(self) -> Tensor:
        """Return the mean loss as a scalar [ ] of this process, and start again."""
        mean = self.total / max(1, self.parts / self._accumulate)
        self.total, self.parts = torch.zeros(()), 0
        return mean


class StepCallback(Callback):
    """Callback that counts whole optimizer steps, however many parts they have."""

    _last_step = 0

    @override
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Record the step from which the run starts or resumes."""
        self._last_step = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Sample, batch_idx: int
    ) -> None:
        """Count the part; call `on_step` where it ends a step."""
        self.on_part(outputs, batch)
        if trainer.global_step > self._last_step:
            self._last_step = trainer.global_step
            self.on_step(trainer, module)

    def on_part(self, outputs: Any, batch: Sample) -> None:
        """Called after each part of a step."""

    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Called after each optimizer step; `trainer.global_step` counts it."""


class ShowProgress(StepCallback):
    """Shows steps, time, ETA and the loss on stderr."""

    def __init__(self, recipe: Recipe, first_step: int, *, enabled: bool) -> None:
        self._loss = MeanLoss(recipe.accumulate)
        self._shown_at = time.monotonic()
        self._progress = Progress("training", recipe.steps, unit="steps", enabled=enabled, start=first_step)

    @override
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Open the progress bar on stderr."""
        super().on_train_start(trainer, module)
        self._progress.__enter__()

    @override
    def on_part(self, outputs: Any, batch: Sample) -> None:
        """Sum the loss since it was last shown."""
        self._loss.add(outputs["loss"])

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Advance by one step; show the loss now and then only, because reading it waits for the GPU."""
        note = ""
        if self._progress.enabled and time.monotonic() - self._shown_at >= LOSS_INTERVAL:
            self._shown_at = time.monotonic()
            note = f"loss {float(self._loss.take()):.4f}"
        self._progress.advance(1, note)

    @override
    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Close the bar, however the run ended."""
        self._progress.__exit__(None, None, None)


class CountDamaged(StepCallback):
    """Reports each damaged picture once, and their number at the end."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    @override
    def on_part(self, outputs: Any, batch: Sample) -> None:
        """Report the damaged pictures that are new."""
        for name in sorted(batch.damaged - self.seen):
            logger.error("%s: not a readable picture; skipped", name)
        self.seen |= batch.damaged

    @override
    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Report the number of damaged pictures."""
        if self.seen:
            logger.error("%d damaged pictures were skipped; remove or replace them", len(self.seen))


class SaveState(StepCallback):
    """Every `save_every` steps and at the end: writes a row of the curve, TensorBoard, a sample picture, the state."""

    def __init__(self, recipe: Recipe, folder: Path, first_step: int) -> None:
        self._recipe = recipe
        self._folder = folder
        self._first_step = first_step
        self._began = time.monotonic()
        self._loss = MeanLoss(recipe.accumulate)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the loss since the last row, so that a run that is stopped between two rows resumes with it."""
        return {"loss": float(self._loss.total), "parts": self._loss.parts}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the loss since the last row."""
        self._loss.total, self._loss.parts = torch.tensor(state_dict["loss"]), state_dict["parts"]

    @override
    def on_part(self, outputs: Any, batch: Sample) -> None:
        """Sum the loss since the last row."""
        self._loss.add(outputs["loss"])

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Write what is due. Every process takes part, because saving waits for all of them."""
        step = trainer.global_step
        if step % self._recipe.save_every and step != self._recipe.steps:
            return
        loss = float(trainer.strategy.reduce(self._loss.take(), reduce_op="mean"))
        if trainer.is_global_zero:
            self._write_curve(step, loss)
            self._show(module, step, loss)
        trainer.save_checkpoint(self._folder / STATE_FILE)

    def _write_curve(self, step: int, loss: float) -> None:
        """Append a row; rows beyond this step are from a run that was killed between its curve and its state."""
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
        writer.add_image("input, bicubic, answer", upscaled_sample(module.model), step, dataformats="HWC")
        writer.flush()

    @cached_property
    def _writer(self) -> Any:
        # Events beyond the first step are of a run that was killed after its last state.
        return SummaryWriter(str(self._folder), purge_step=self._first_step + 1)


class StopAfterStep(StepCallback):
    """Ends a run on Ctrl-C or SIGTERM after the current step, with its state saved; a second signal ends it at once.

    The KeyboardInterrupt then explains how to resume. All processes of a run stop after the same step.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._recipe, self._folder = recipe, folder
        self._requested: type[KeyboardInterrupt] | None = None
        self._is_stopping = False

    @override
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Install the signal handlers after Lightning's, except for ignored signals, as Ctrl-C is in the background."""
        super().on_train_start(trainer, module)
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._request)

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Save and stop where any process received a signal. `SaveState` has already saved where it was due."""
        if not trainer.strategy.reduce_boolean_decision(self._requested is not None, all=False):
            return
        step = trainer.global_step
        if step % self._recipe.save_every and step != self._recipe.steps:
            trainer.save_checkpoint(self._folder / STATE_FILE)
        self._is_stopping = True
        raise (self._requested or KeyboardInterrupt)(
            f"interrupted: {step} of {self._recipe.steps} steps are saved in {self._folder / STATE_FILE}; run the "
            "same command again to resume"
        )

    def _request(self, number: int, _: Any) -> None:
        requested = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self._is_stopping:
            return
        if self._requested is not None:
            self._is_stopping = True
            raise requested(f"interrupted at once: {self._kept()}")
        self._requested = requested
        logger.warning("stopping after this step is saved; a second signal stops at once")

    def _kept(self) -> str:
        state = self._folder / STATE_FILE
        return f"run the same command again to resume from {state}" if state.exists() else "no step was saved"


def read_curve(path: Path) -> list[dict[str, str]]:
    """Return the rows of a curve, none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
