"""Runs the training: Lightning's Trainer around the recipe, with a state on disk that is replaced atomically."""

from __future__ import annotations

import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from hiif_deploy.errors import CheckpointError, OptionError
from hiif_deploy.support.files import remove_temporary_files
from hiif_training.checkpoints.checkpoint import load_weights, read_file, save_checkpoint, write_whole
from hiif_training.models.encoders.branches import merge_branches
from hiif_training.models.registry import make_model
from hiif_training.pictures.store import check_sizes
from hiif_training.training.callbacks import STATE_FILE, CountDamaged, SaveState, ShowProgress, StopAfterStep
from hiif_training.training.data import Crops, SampleLoader, StepBatchSampler
from hiif_training.training.kept_crops import KeptCrops, remove_kept_crops
from hiif_training.training.machine import Machine, World
from hiif_training.training.recipe import Recipe
from hiif_training.training.training_module import TrainingModule

logger = logging.getLogger(__name__)

MODEL_FILE = "model.pth"
ORIGIN = ("init", "freeze", "teacher")
"""Keys of a recipe that a trained checkpoint records where they are set."""
PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Precision in a recipe → Lightning's name."""


class WholeFiles(TorchCheckpointIO):
    """Writes state files atomically, and reads them as plain data, so that nothing in them is executed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the file at `path` atomically."""
        del storage_options
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a state file; CheckpointError where it holds more than plain data."""
        del map_location, weights_only
        return read_file(Path(path))


def train(recipe: Recipe, folder: Path, *, machine: Machine | None = None, show_progress: bool = True) -> Path:
    """Train (or resume where `folder` left off); return the path of the final checkpoint.

    `folder` receives `state.pt` (to resume), `loss.csv` (step, loss, learning rate, seconds), TensorBoard's events and
    `model.pth` (the LIIF family's format). The result does not depend on how often the run was interrupted. Under
    `torchrun` each process calls this; the processes share every step.
    """
    machine, world = machine or Machine(), World.of_environment()
    check_machine(recipe, machine, world)
    folder.mkdir(parents=True, exist_ok=True)
    if world.process == 0:
        remove_temporary_files(folder)
    state = folder / STATE_FILE
    done = finished_steps(state, recipe) if state.exists() else 0
    if done < recipe.steps:
        if done and world.process == 0 and show_progress:
            logger.info("%s: resuming after step %d of %d", folder, done, recipe.steps)
        module = make_module(recipe, machine, is_resumed=done > 0)
        crops = make_crops(module, machine)
        if recipe.normalise_features and not done:
            module.normalise_features(torch.cat([crops[n].image for n in range(recipe.batch)]))
        kept = None
        if recipe.reuse > 1:
            if done:
                module.load_state_dict(read_file(state)["state_dict"])
            kept = KeptCrops(crops, module.fixed_values, folder)
            kept.fill(show_progress=show_progress)
        loader = make_loader(crops, machine, world, first_step=done, kept=kept)
        callbacks = _callbacks(recipe, folder, done, show_progress and world.process == 0)
        fit(
            lambda: make_trainer(recipe, machine, world, callbacks, recipe.steps),
            module,
            loader,
            state if done else None,
        )
    if world.process == 0:
        save_model(recipe, state, folder / MODEL_FILE)
        remove_kept_crops(folder)
    return folder / MODEL_FILE


def make_module(recipe: Recipe, machine: Machine, *, is_resumed: bool) -> TrainingModule:
    """Return the model in training, compiled where the machine requests it."""
    module = TrainingModule(recipe, is_resumed=is_resumed)
    if machine.compile:
        module.model.compile()
    return module


def make_crops(module: TrainingModule, machine: Machine) -> Crops:
    """Return the crops of a run; ImageError where a picture is too small or missing."""
    recipe, model = module.recipe, module.model
    teacher_queries = module.teacher.model.make_queries if module.teacher is not None else None
    crops = Crops(
        recipe, model.make_queries, model.traits, cache=machine.cache_per_process, teacher_queries=teacher_queries
    )
    check_sizes(crops.pictures.paths, math.ceil(recipe.patch * recipe.scale[0]))
    return crops


def make_loader(
    crops: Crops, machine: Machine, world: World, first_step: int = 0, kept: KeptCrops | None = None
) -> SampleLoader:
    """Return the loader of this process's samples from `first_step` on."""
    step_sampler = StepBatchSampler(
        crops.recipe, first_step=first_step, process=world.process, processes=world.processes
    )
    return SampleLoader(crops, step_sampler, machine.workers, samples=kept)


def make_trainer(recipe: Recipe, machine: Machine, world: World, callbacks: Sequence[Callback], steps: int) -> Trainer:
    """Return Lightning's Trainer for this process; only `callbacks` write anything."""
    backend = "nccl" if machine.accelerator == "cuda" else "gloo"
    return Trainer(
        accelerator="gpu" if machine.accelerator == "cuda" else "cpu",
        devices=world.per_node,
        num_nodes=world.processes // world.per_node,
        strategy=DDPStrategy(process_group_backend=backend) if world.processes > 1 else "auto",
        precision=PRECISIONS[recipe.precision],
        max_steps=steps,
        accumulate_grad_batches=recipe.accumulate,
        callbacks=list(callbacks),
        logger=False,
        plugins=[WholeFiles()],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def check_machine(recipe: Recipe, machine: Machine, world: World) -> None:
    """OptionError for fp16 without a GPU, where Lightning would use bf16 instead, and for several processes with kept
    crops."""
    if recipe.reuse > 1 and world.processes > 1:
        raise OptionError(f"recipe: reuse {recipe.reuse} needs a single process, not {world.processes}; leave it out")
    if recipe.precision == "fp16" and machine.accelerator == "cpu":
        raise OptionError("recipe: precision 'fp16' needs a GPU; on a processor take --set precision=bf16")


def finished_steps(path: Path, recipe: Recipe) -> int:
    """Return the steps that a state file holds; CheckpointError where it is none, or of another recipe.

    A finished run may be extended: it resumes at the learning rates of the longer schedule.
    """
    content = read_file(path)
    if not isinstance(content.get("recipe"), dict) or type(content.get("global_step")) is not int:
        raise CheckpointError(f"{path}: not the state of a training run; choose another output folder")
    # A state of an earlier version lacks the keys that were added since; it was trained with their defaults.
    done, known = int(content["global_step"]), Recipe(model={}).plain()
    before = {**known, **content["recipe"]}
    if isinstance(before["degrade"], dict):
        before["degrade"] = {**known["degrade"], **before["degrade"]}
    changed = [k for k, v in recipe.plain().items() if k != "data" and before[k] != v]
    if changed == ["steps"] and done == before["steps"] and recipe.steps > done:
        return done
    if changed:
        raise CheckpointError(
            f"{path}: written with another recipe ({', '.join(changed)} differ); "
            "choose another output folder or restore the recipe"
        )
    return done


def save_model(recipe: Recipe, state: Path, path: Path) -> None:
    """Write the weights of a state file, averaged where the recipe averages them, in the LIIF family's format."""
    content = read_file(state)
    model = make_model(recipe.model)
    tensors = {key.removeprefix("model."): value for key, value in content["state_dict"].items()}
    load_weights(model, merge_branches(tensors))
    # Names without folders: checkpoints are published, and folders are private.
    origin: dict[str, Any] = {
        name: Path(getattr(recipe, name)).name for name in ORIGIN if getattr(recipe, name) not in ("", "none")
    }
    if trained_for := recipe.degrade.trained_for():
        origin["trained_for"] = trained_for
    save_checkpoint(path, model, recipe.model, {"epoch": content["global_step"], **origin})


def _callbacks(recipe: Recipe, folder: Path, done: int, show_progress: bool) -> list[Callback]:
    """Return the callbacks in call order: the state is saved after the moving average has included the step."""
    progress = ShowProgress(recipe, done, enabled=show_progress)
    rest: list[Callback] = [CountDamaged(), SaveState(recipe, folder, done), StopAfterStep(recipe, folder), progress]
    if not recipe.ema:
        return rest
    return [WeightAveraging(device=None, use_buffers=False, multi_avg_fn=partial(follow, recipe.ema)), *rest]


def follow(decay: float, averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
    """Move averaged weights towards the current ones, those after `steps` steps.

    The decay grows from 2/11 to `decay`: a constant one would keep a share of the initial weights that short runs never
    forget (0.999 after 2,000 steps: 14 %).
    """
    growing = (1 + int(steps)) / (10 + int(steps))
    torch._foreach_lerp_(list(averaged), list(current), 1 - min(decay, growing))


def fit(make: Callable[[], Trainer], module: TrainingModule, loader: SampleLoader, state: Path | None = None) -> None:
    """Train with the Trainer that `make` returns, from a state file where there is one; Ctrl-C stays
    KeyboardInterrupt."""
    with _quiet(), _kept_signals():
        trainer = make()
        try:
            trainer.fit(module, loader, ckpt_path=state, weights_only=True)
        except SystemExit as end:
            # Lightning turns Ctrl-C into an exit.
            stop = end.__context__
            raise (stop if isinstance(stop, KeyboardInterrupt) else end) from None


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Restore the signal handlers that Lightning and `StopAfterStep` replace; Lightning would leave Ctrl-C ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advertisements, its hints about workers and frozen modules, and a warning about its code."""
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        lightning.setLevel(level)
