"""The training loop: the plain loop it equals, average, exact resumption, what a run leaves behind."""

from __future__ import annotations

import csv
import dataclasses
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hiif_deploy.errors import CheckpointError, OptionError, Terminated
from hiif_deploy.support import progress
from hiif_training.checkpoints.checkpoint import load_checkpoint, read_file, write_whole
from hiif_training.models.hiif import Hiif
from hiif_training.models.registry import make_model
from hiif_training.training import callbacks
from hiif_training.training.data import Crops, Sample
from hiif_training.training.loop import follow, train
from hiif_training.training.machine import Machine
from hiif_training.training.recipe import Recipe
from hiif_training.training.schedule import learning_rate
from hiif_training.training.training_module import TrainingModule

torch.set_num_threads(1)

MODEL: dict[str, Any] = {
    "name": "hiif",
    "args": {
        "encoder_spec": {
            "name": "edsr-mini",
            "args": {"n_resblocks": 1, "n_feats": 4, "no_upsampling": True},
        },
        "blocks": 2,
        "hidden_dim": 8,
        "mlp_dim": 8,
        "bits": "exact",
    },
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handful of smooth pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[:32, :40] / 40
    for n in range(3):
        channels = [np.sin((n + 2) * x + k * y) for k in range(3)]
        Image.fromarray(np.uint8(127 + 120 * np.dstack(channels))).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def recipe(pictures: Path) -> Recipe:
    return Recipe(
        model=MODEL, data=(str(pictures),), seed=5, steps=6, batch=2, patch=6, learning_rate=3e-3, warmup=2,
        ema=0.9, save_every=3,
    )  # fmt: skip


def tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a saved state, by its place in it."""
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, Any]] = [("", read_file(path))]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, dict):
            waiting += [(f"{name}.{key}", entry) for key, entry in value.items()]
    return found


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "loss.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train_until(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, folder: Path, steps: int) -> None:
    """Train, and be interrupted in step `steps` + 1."""
    done = iter(range(steps))
    step = TrainingModule.training_step

    def interrupted(module: TrainingModule, *rest: Any) -> Tensor:
        if next(done, None) is None:
            raise KeyboardInterrupt
        return step(module, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder, show_progress=False)


def plain_training(recipe: Recipe) -> tuple[Hiif, AveragedModel, list[float]]:
    """The run without any framework: what the Trainer's must equal."""
    torch.manual_seed(recipe.seed)
    model = make_model(recipe.model).train()
    average = AveragedModel(model, multi_avg_fn=partial(follow, recipe.ema))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    crops, losses = Crops(recipe, model.make_queries), []
    for step in range(recipe.steps):
        numbers = range(step * recipe.batch, (step + 1) * recipe.batch)
        part = Sample.concatenate([crops[n] for n in numbers])
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            answer = model(part.image, part.queries)
        loss = nn.functional.l1_loss(answer.float(), part.colours)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update_parameters(model)
        losses.append(float(loss.detach()))
    return model, average, losses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_equals_a_plain_loop(recipe: Recipe, tmp_path: Path, precision: Any) -> None:
    recipe = dataclasses.replace(recipe, precision=precision)
    model, average, losses = plain_training(recipe)
    train(recipe, tmp_path, show_progress=False)
    state = read_file(tmp_path / "state.pt")
    for expected, found in ((model, state["current_model_state"]), (average.module, state["state_dict"])):
        for name, value in expected.state_dict().items():
            # The rate passes through a factor of the peak: a rounding away.
            torch.testing.assert_close(found[f"model.{name}"], value, atol=1e-7, rtol=1e-6)
    table = [float(row["loss"]) for row in rows(tmp_path)]
    assert table == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3], abs=2e-6)


def test_parts_of_a_step_add_up_to_the_step(recipe: Recipe, tmp_path: Path) -> None:
    weights = []
    for parts in (1, 2):
        chosen = dataclasses.replace(recipe, accumulate=parts, ema=0.0)
        train(chosen, tmp_path / str(parts), show_progress=False)
        weights.append(read_file(tmp_path / str(parts) / "state.pt")["state_dict"])
    assert [row["loss"] for row in rows(tmp_path / "1")] == [row["loss"] for row in rows(tmp_path / "2")]
    assert all(torch.allclose(value, weights[1][name], atol=1e-6) for name, value in weights[0].items())


def test_every_weight_is_trained_but_the_unused_mean_shifts(recipe: Recipe, tmp_path: Path) -> None:
    before = TrainingModule(recipe).model.state_dict()
    after = load_checkpoint(train(recipe, tmp_path, show_progress=False)).model.state_dict()
    kept = {name for name, value in after.items() if value.equal(before[name])}
    assert kept == {f"encoder.{m}_mean.{kind}" for m in ("sub", "add") for kind in ("weight", "bias")}


def test_the_seed_decides_the_first_weights(recipe: Recipe) -> None:
    first, again = TrainingModule(recipe).model, TrainingModule(recipe).model
    other = TrainingModule(dataclasses.replace(recipe, seed=6)).model
    assert first.freq.weight.equal(again.freq.weight)
    assert not first.freq.weight.equal(other.freq.weight)


def test_half_precision_on_a_processor_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'fp16' needs a GPU; on a processor take --set precision=bf16"):
        train(dataclasses.replace(recipe, precision="fp16"), tmp_path, machine=Machine(device="cpu"))


def test_training_reduces_the_loss(recipe: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe, steps=40, save_every=10, ema=0.0)
    train(recipe, tmp_path, show_progress=False)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < losses[0] / 2


def test_a_run_leaves_a_checkpoint_a_state_and_a_table(recipe: Recipe, tmp_path: Path) -> None:
    path = train(recipe, tmp_path / "run", show_progress=False)
    assert path == tmp_path / "run" / "model.pth"
    events, *others = sorted(p.name for p in path.parent.iterdir())
    assert others == ["loss.csv", "model.pth", "state.pt"]
    assert events.startswith("events.out.tfevents.")


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_the_final_checkpoint_holds_the_average_where_there_is_one(recipe: Recipe, tmp_path: Path, ema: float) -> None:
    loaded = load_checkpoint(train(dataclasses.replace(recipe, ema=ema), tmp_path, show_progress=False))
    state = read_file(tmp_path / "state.pt")
    wanted = {key.removeprefix("model."): value for key, value in state["state_dict"].items()}
    trained = state["current_model_state"] if ema else state["state_dict"]
    assert loaded.spec == MODEL
    assert loaded.metadata == {"epoch": 6}
    assert all(value.equal(wanted[key]) for key, value in loaded.model.state_dict().items())
    assert loaded.model.freq.weight.equal(wanted["freq.weight"])
    assert loaded.model.freq.weight.equal(trained["model.freq.weight"]) == (ema == 0)


@pytest.mark.parametrize("interrupted_after", [1, 3, 5])
def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_after: int
) -> None:
    train(recipe, tmp_path / "whole", show_progress=False)
    train_until(monkeypatch, recipe, tmp_path / "parts", interrupted_after)
    torch.manual_seed(99)
    train(recipe, tmp_path / "parts", show_progress=False)
    for name in ("state.pt", "model.pth"):
        expected, found = (tensors(tmp_path / run / name) for run in ("whole", "parts"))
        assert expected.keys() == found.keys()
        assert len(expected) > 40
        assert all(value.equal(found[key]) for key, value in expected.items())


def train_until_signal(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, folder: Path, steps: int, number: int, times: int = 1
) -> str:
    """Train, and get a signal `times` times in step `steps`; what the interruption says."""
    counted = iter(range(1, steps + 1))
    step = TrainingModule.training_step

    def signalled(module: TrainingModule, *rest: Any) -> Tensor:
        if next(counted) == steps:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return step(module, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", signalled)
        with pytest.raises(KeyboardInterrupt) as stop:
            train(recipe, folder, show_progress=False)
    assert isinstance(stop.value, Terminated) == (number == signal.SIGTERM)
    return str(stop.value)


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_it_came_in_and_says_how_to_go_on(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    train(recipe, tmp_path / "whole", show_progress=False)
    said = train_until_signal(monkeypatch, recipe, tmp_path / "parts", 4, number)
    state = tmp_path / "parts" / "state.pt"
    assert said == f"interrupted: 4 of 6 steps are saved in {state}; run the same command again to resume"
    assert read_file(state)["global_step"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(recipe, tmp_path / "parts", show_progress=False)
    expected, found = (tensors(tmp_path / run / "state.pt") for run in ("whole", "parts"))
    assert all(value.equal(found[key]) for key, value in expected.items())
    losses = [[row["loss"] for row in rows(tmp_path / run)] for run in ("whole", "parts")]
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_run_at_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    said = train_until_signal(monkeypatch, recipe, tmp_path, 5, number, times=2)
    assert said == f"interrupted at once: run the same command again to resume from {tmp_path / 'state.pt'}"
    assert read_file(tmp_path / "state.pt")["global_step"] == 3


@pytest.mark.usefixtures("default_signals")
def test_ctrl_c_that_reaches_the_workers_as_well_keeps_the_step_it_came_in(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def signalled(module: TrainingModule, *rest: Any) -> Tensor:
        # As a terminal does; the run itself gets it late, when a worker that ended would have been missed.
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGINT)
        if module.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(module, *rest)

    monkeypatch.setattr(TrainingModule, "training_step", signalled)
    with pytest.raises(KeyboardInterrupt, match="5 of 6 steps are saved"):
        train(recipe, tmp_path, machine=Machine("cpu", workers=1), show_progress=False)
    assert read_file(tmp_path / "state.pt")["global_step"] == 5


def test_a_finished_run_goes_on_where_steps_are_raised(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hiif_training")
    train(recipe, tmp_path, show_progress=False)
    longer = dataclasses.replace(recipe, steps=9)
    train(longer, tmp_path)
    assert f"{tmp_path}: resuming after step 6 of 9" in caplog.text
    assert [row["step"] for row in rows(tmp_path)] == ["3", "6", "9"]
    assert float(rows(tmp_path)[-1]["learning_rate"]) == pytest.approx(learning_rate(longer, 8), rel=1e-3)
    assert load_checkpoint(tmp_path / "model.pth").metadata == {"epoch": 9}


def test_steps_of_an_unfinished_run_are_not_changed(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(monkeypatch, recipe, tmp_path, 4)
    with pytest.raises(CheckpointError, match=r"written with another recipe \(steps differ\)"):
        train(dataclasses.replace(recipe, steps=9), tmp_path, show_progress=False)


def test_progress_shows_the_loss(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(callbacks, "LOSS_INTERVAL", 0)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0)
    train(dataclasses.replace(recipe, save_every=1), tmp_path)
    shown = [line.rpartition("loss ")[2] for line in capsys.readouterr().err.splitlines() if "training:" in line]
    assert shown == [f"{float(row['loss']):.4f}" for row in rows(tmp_path)]


def test_a_finished_run_is_only_written_out_again(recipe: Recipe, tmp_path: Path) -> None:
    path = train(recipe, tmp_path, show_progress=False)
    expected = tensors(path)
    path.unlink()
    train(recipe, tmp_path, show_progress=False)
    assert all(value.equal(expected[key]) for key, value in tensors(path).items())
    assert [row["step"] for row in rows(tmp_path)] == ["3", "6"]


def test_a_resumed_run_goes_on_in_the_same_table(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(monkeypatch, recipe, tmp_path, 4)
    train(recipe, tmp_path, show_progress=False)
    assert [row["step"] for row in rows(tmp_path)] == ["3", "6"]


def test_the_table_has_a_row_and_the_last_rate_for_each_part(recipe: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe, steps=7)
    train(recipe, tmp_path, show_progress=False)
    table = rows(tmp_path)
    assert list(table[0]) == ["step", "loss", "learning_rate", "seconds"]
    assert [int(row["step"]) for row in table] == [3, 6, 7]
    for row in table:
        assert float(row["learning_rate"]) == pytest.approx(learning_rate(recipe, int(row["step"]) - 1), rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [{"steps": 5}, {"batch": 3}, {"scale": (1.0, 2.0)}, {"ema": 0.0}, {"model": {**MODEL, "name": "hiifv3"}}],
)
def test_a_run_is_not_resumed_with_another_recipe(recipe: Recipe, tmp_path: Path, change: dict[str, Any]) -> None:
    train(recipe, tmp_path, show_progress=False)
    name = next(iter(change))
    message = rf"state\.pt: written with another recipe \({name} differ\); choose another output folder or"
    with pytest.raises(CheckpointError, match=message):
        train(dataclasses.replace(recipe, **change), tmp_path, show_progress=False)


def test_the_pictures_may_have_moved_when_a_run_is_resumed(recipe: Recipe, pictures: Path, tmp_path: Path) -> None:
    expected = tensors(train(recipe, tmp_path / "run", show_progress=False))
    (tmp_path / "moved").symlink_to(pictures)
    moved = dataclasses.replace(recipe, data=(str(tmp_path / "moved"),))
    assert tensors(train(moved, tmp_path / "run", show_progress=False)).keys() == expected.keys()


@pytest.mark.parametrize("content", [{"weights": 1}, {"global_step": None, "recipe": {}}])
def test_a_file_that_is_no_state_is_refused(recipe: Recipe, tmp_path: Path, content: dict[str, Any]) -> None:
    write_whole(tmp_path / "state.pt", lambda file: torch.save(content, file))
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        train(recipe, tmp_path, show_progress=False)


def test_a_damaged_state_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, show_progress=False)
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"state\.pt: truncated, damaged or not a checkpoint"):
        train(recipe, tmp_path, show_progress=False)


@pytest.mark.parametrize("decay", [0.999, 0.5])
def test_the_average_is_of_the_last_weights_and_forgets_the_first(decay: float) -> None:
    averaged, first = [torch.tensor([100.0])], 100.0
    for step in range(1, 200):
        follow(decay, averaged, [torch.tensor([float(step)])], step)
    # A constant decay of 0.999 would keep 82 % of the first value.
    share = 0.0 if decay == 0.5 else float(np.prod([(1 + n) / (10 + n) for n in range(1, 200)]))
    assert share < 1e-9
    moves = [min(decay, (1 + n) / (10 + n)) for n in range(1, 200)]
    wanted = sum((1 - moves[n - 1]) * n * float(np.prod(moves[n:])) for n in range(1, 200)) + share * first
    assert averaged[0].item() == pytest.approx(wanted, rel=1e-5)
