"""The training loop: L1, Adam, warm-up and cosine, checkpoints, exact resume (design/model.md T1)."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from hiif_deploy.errors import CheckpointError
from hiif_deploy.progress import Progress
from hiif_training.checkpoint import read_file, save_checkpoint, write_aside
from hiif_training.data import Crops, Sample
from hiif_training.models.hiif import Hiif
from hiif_training.models.registry import make_model
from hiif_training.recipe import Recipe


@dataclass
class TrainingState:
    """Everything that changes from step to step."""

    model: Hiif
    """The weights being trained."""
    average: AveragedModel | None
    """Their exponential average, where the recipe asks for one."""
    optimizer: torch.optim.Optimizer
    """Adam."""
    step: int = 0
    """Steps done."""

    @property
    def best_weights(self) -> nn.Module:
        """What is exported: the average where there is one."""
        return self.average.module if self.average is not None else self.model


def train(recipe: Recipe, folder: Path, *, show_progress: bool = True) -> Path:
    """Train (or go on where `folder` left off); returns the path of the final checkpoint.

    `folder` receives `state.pt` (to resume), `loss.csv` (step, loss, learning rate, seconds) and `model.pth`
    (the LIIF family's format). The result does not depend on how often the run was interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = start(recipe)
    if (folder / "state.pt").exists():
        resume(state, recipe, folder / "state.pt")
    config = state.model.config
    crops = Crops(recipe, levels=config.levels, bits=config.bits)
    progress = Progress("training", recipe.steps, unit="steps", enabled=show_progress, start=state.step)
    began, total = time.monotonic(), torch.zeros(())
    with progress:
        for sample in _batches(crops, recipe, state.step):
            total += training_step(state, recipe, sample)
            progress.advance(1)
            if state.step % recipe.save_every == 0 or state.step == recipe.steps:
                summed = (state.step - 1) % recipe.save_every + 1
                _log(folder, state, recipe, total.item() / summed, time.monotonic() - began)
                total.zero_()
                save_state(state, recipe, folder / "state.pt")
    return _save_model(state, recipe, folder / "model.pth")


def start(recipe: Recipe) -> TrainingState:
    """Fresh weights from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    model = make_model(recipe.model).train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None  # type: ignore[no-untyped-call]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return TrainingState(model, average, torch.optim.Adam(trainable, lr=recipe.learning_rate))


def training_step(state: TrainingState, recipe: Recipe, sample: Sample) -> Tensor:
    """One optimizer step; the L1 loss before it, in the normalised domain."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, state.step)
    with _precision(recipe):
        answer = state.model(sample.image, sample.queries)
    loss = nn.functional.l1_loss(answer.float(), sample.colours)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    if state.average is not None:
        state.average.update_parameters(state.model)
    state.step += 1
    return loss.detach()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up to the peak, then half a cosine down to the final rate."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    span = recipe.learning_rate - recipe.final_learning_rate
    return recipe.final_learning_rate + span * (1 + math.cos(math.pi * done)) / 2


def save_state(state: TrainingState, recipe: Recipe, path: Path) -> None:
    """All that `resume` needs, written aside and renamed."""
    content = {
        "step": state.step,
        "recipe": _plain(recipe),
        "model": state.model.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    write_aside(path, lambda file: torch.save(content, file))


def resume(state: TrainingState, recipe: Recipe, path: Path) -> None:
    """Load what `save_state` wrote; CheckpointError where the recipe is another one."""
    content = read_file(path)
    if not isinstance(content.get("recipe"), dict):
        raise CheckpointError(f"{path}: not the state of a training run; choose another output folder")
    changed = [k for k, v in _plain(recipe).items() if k != "data" and content["recipe"].get(k) != v]
    if changed:
        raise CheckpointError(
            f"{path}: written with another recipe ({', '.join(changed)} differ); "
            "choose another output folder or restore the recipe"
        )
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    if state.average is not None:
        state.average.load_state_dict(content["average"])
    state.step = content["step"]


def _batches(crops: Crops, recipe: Recipe, first: int) -> Iterator[Sample]:
    rest = Subset(crops, range(first * recipe.batch, len(crops)))
    return iter(DataLoader(rest, batch_size=recipe.batch, collate_fn=Sample.concatenate))


def _precision(recipe: Recipe) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if recipe.precision == "bf16" else nullcontext()


def _plain(recipe: Recipe) -> dict[str, Any]:
    values = asdict(recipe)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _log(folder: Path, state: TrainingState, recipe: Recipe, loss: float, seconds: float) -> None:
    path = folder / "loss.csv"
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(["step", "loss", "learning_rate", "seconds"])
        writer.writerow([state.step, f"{loss:.6f}", f"{learning_rate(recipe, state.step - 1):.3e}", f"{seconds:.1f}"])


def _save_model(state: TrainingState, recipe: Recipe, path: Path) -> Path:
    save_checkpoint(path, state.best_weights, recipe.model, {"epoch": state.step})
    return path
