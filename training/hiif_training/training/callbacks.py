"""What happens between the steps of a run: progress, curves, sample pictures, the state on disk."""

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
from hiif_training.training.sample_picture import enlarged_sample
from hiif_training.training.schedule import learning_rate

logger = logging.getLogger(__name__)
STATE_FILE = "state.pt"
CURVE_FILE = "loss.csv"
COLUMNS = ("step", "loss", "learning_rate", "seconds")


LOSS_INTERVAL = 0.5
"""Seconds after which progress shows the mean loss of the steps since."""


class MeanLoss:
    """The mean loss of the steps since it was last taken."""

    def __init__(self, accumulate: int) -> None:
        self._accumulate = accumulate
        self.total, self.parts = torch.zeros(()), 0

    def add(self, loss: Tensor) -> None:
        """That of one part; Lightning has divided it by the number of parts of a step."""
        self.total = self.total.to(loss.device) + loss.detach().float()
        self.parts += 1

    def take(self) -> Tensor:
        """The mean, of this process; begins anew."""
        mean = self.total / max(1, self.parts / self._accumulate)
        self.total, self.parts = torch.zeros(()), 0
        return mean


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
    """Steps, time, ETA and the loss on stderr."""

    def __init__(self, recipe: Recipe, first_step: int, *, enabled: bool) -> None:
        self._loss = MeanLoss(recipe.accumulate)
        self._said = time.monotonic()
        self._progress = Progress("training", recipe.steps, unit="steps", enabled=enabled, start=first_step)

    @override
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the bar."""
        super().on_train_start(trainer, module)
        self._progress.__enter__()

    @override
    def on_part(self, outputs: Any, batch: Sample) -> None:
        """Sum the loss since it was last shown."""
        self._loss.add(outputs["loss"])

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """One more; now and then the loss, for reading it waits for the GPU."""
        note = ""
        if self._progress.enabled and time.monotonic() - self._said >= LOSS_INTERVAL:
            self._said = time.monotonic()
            note = f"loss {float(self._loss.take()):.4f}"
        self._progress.advance(1, note)

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
            logger.error("%s: not a readable picture; skipped", name)
        self.seen |= batch.damaged

    @override
    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """The count."""
        if self.seen:
            logger.error("%d damaged pictures were skipped; remove or replace them", len(self.seen))


class SaveState(StepCallback):
    """Every `save_every` steps and at the end: a row of the curve, TensorBoard, a sample picture, the state."""

    def __init__(self, recipe: Recipe, folder: Path, first_step: int) -> None:
        self._recipe = recipe
        self._folder = folder
        self._first_step = first_step
        self._began = time.monotonic()
        self._loss = MeanLoss(recipe.accumulate)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The loss since the last row: a run that was stopped between two rows goes on with it."""
        return {"loss": float(self._loss.total), "parts": self._loss.parts}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
        self._loss.total, self._loss.parts = torch.tensor(state_dict["loss"]), state_dict["parts"]

    @override
    def on_part(self, outputs: Any, batch: Sample) -> None:
        """Sum the loss since the last row."""
        self._loss.add(outputs["loss"])

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Write what is due. Every process takes part: saving waits for all of them."""
        step = trainer.global_step
        if step % self._recipe.save_every and step != self._recipe.steps:
            return
        loss = float(trainer.strategy.reduce(self._loss.take(), reduce_op="mean"))
        if trainer.is_global_zero:
            self._write_curve(step, loss)
            self._show(module, step, loss)
        trainer.save_checkpoint(self._folder / STATE_FILE)

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


class StopAfterStep(StepCallback):
    """Ctrl-C and SIGTERM end a run after the step that they come in, with its state on disk; a second one at once.

    KeyboardInterrupt then says how to go on. All processes of a run stop after the same step.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._recipe, self._folder = recipe, folder
        self._asked: type[KeyboardInterrupt] | None = None
        self._is_stopping = False

    @override
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take the signals, after Lightning has; not those that are ignored, as Ctrl-C is in the background."""
        super().on_train_start(trainer, module)
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._ask)

    @override
    def on_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Save and stop where any process was asked to. `SaveState` has saved already where it was its turn."""
        if not trainer.strategy.reduce_boolean_decision(self._asked is not None, all=False):
            return
        step = trainer.global_step
        if step % self._recipe.save_every and step != self._recipe.steps:
            trainer.save_checkpoint(self._folder / STATE_FILE)
        self._is_stopping = True
        raise (self._asked or KeyboardInterrupt)(
            f"interrupted: {step} of {self._recipe.steps} steps are kept in {self._folder / STATE_FILE}; the same "
            "command goes on from there"
        )

    def _ask(self, number: int, _: Any) -> None:
        asked = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self._is_stopping:
            return
        if self._asked is not None:
            self._is_stopping = True
            raise asked(f"interrupted at once: {self._kept()}")
        self._asked = asked
        logger.warning("stopping after this step, to save it; once more stops at once")

    def _kept(self) -> str:
        state = self._folder / STATE_FILE
        return f"the same command goes on from {state}" if state.exists() else "no step had been saved"


def read_curve(path: Path) -> list[dict[str, str]]:
    """Rows of a curve, none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
