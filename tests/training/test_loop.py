"""The training loop: schedule, average, exact resumption, what a run leaves behind."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import hiif_training.loop
from hiif_deploy.errors import CheckpointError
from hiif_training.checkpoint import load_checkpoint, read_file, write_aside
from hiif_training.data import Crops, Sample
from hiif_training.loop import TrainingState, learning_rate, start, train, training_step
from hiif_training.recipe import Recipe

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


def sample(recipe: Recipe) -> Sample:
    return Crops(recipe, levels=6, bits="exact")[0]


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

    def step(state: TrainingState, *rest: Any) -> Tensor:
        if state.step == steps:
            raise KeyboardInterrupt
        return training_step(state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(hiif_training.loop, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder, show_progress=False)


def test_the_learning_rate_rises_linearly_to_its_peak(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, steps=100, warmup=4, learning_rate=8.0, final_learning_rate=0.5)
    assert [learning_rate(recipe, n) for n in range(5)] == [2.0, 4.0, 6.0, 8.0, 8.0]


def test_the_learning_rate_falls_by_half_a_cosine_to_the_final_one(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, steps=104, warmup=4, learning_rate=8.0, final_learning_rate=0.5)
    found = [learning_rate(recipe, n) for n in range(4, 105)]
    assert found == sorted(found, reverse=True)
    assert found[50] == pytest.approx(4.25)
    assert found[25] == pytest.approx(0.5 + 7.5 * (2 + 2**0.5) / 4)
    assert found[100] == pytest.approx(0.5)


def test_without_warm_up_the_first_step_has_the_peak_rate(recipe: Recipe) -> None:
    assert learning_rate(dataclasses.replace(recipe, warmup=0), 0) == recipe.learning_rate


def test_a_warm_up_longer_than_the_run_never_reaches_the_peak(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, warmup=100)
    assert max(learning_rate(recipe, n) for n in range(6)) == pytest.approx(0.06 * recipe.learning_rate)


def test_a_step_uses_the_learning_rate_of_its_number(recipe: Recipe) -> None:
    state = start(recipe)
    for n in range(3):
        training_step(state, recipe, sample(recipe))
        assert state.optimizer.param_groups[0]["lr"] == learning_rate(recipe, n)
    assert state.step == 3


def test_the_loss_is_the_mean_absolute_error_before_the_step(recipe: Recipe) -> None:
    state = start(recipe)
    with torch.no_grad():
        answer = state.model(sample(recipe).image, sample(recipe).queries)
    expected = (answer - sample(recipe).colours).abs().mean()
    torch.testing.assert_close(training_step(state, recipe, sample(recipe)), expected)


def test_the_average_follows_the_weights_by_its_decay(recipe: Recipe) -> None:
    state = start(dataclasses.replace(recipe, ema=0.75))
    seen = []
    for _ in range(3):
        training_step(state, recipe, sample(recipe))
        seen.append(state.model.freq.weight.detach().clone())
    expected = 0.75 * (0.75 * seen[0] + 0.25 * seen[1]) + 0.25 * seen[2]
    torch.testing.assert_close(state.best_weights.get_parameter("freq.weight").data, expected)


def test_every_weight_is_trained_but_the_unused_mean_shifts(recipe: Recipe) -> None:
    state = start(recipe)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    for _ in range(3):
        training_step(state, recipe, sample(recipe))
    kept = {name for name, p in state.model.named_parameters() if p.equal(before[name])}
    assert kept == {f"encoder.{m}_mean.{kind}" for m in ("sub", "add") for kind in ("weight", "bias")}


def test_the_seed_decides_the_first_weights(recipe: Recipe) -> None:
    first, again = start(recipe), start(recipe)
    other = start(dataclasses.replace(recipe, seed=6))
    assert first.model.freq.weight.equal(again.model.freq.weight)
    assert not first.model.freq.weight.equal(other.model.freq.weight)


def test_a_bf16_run_keeps_float32_weights(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, precision="bf16")
    state, exact = start(recipe), start(recipe)
    loss = training_step(state, recipe, sample(recipe))
    expected = training_step(exact, dataclasses.replace(recipe, precision="fp32"), sample(recipe))
    assert loss.dtype == torch.float32
    assert 0 < abs(float(loss - expected)) < 0.05 * float(expected)
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}


def test_training_reduces_the_loss(recipe: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe, steps=40, save_every=10, ema=0.0)
    train(recipe, tmp_path, show_progress=False)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < losses[0] / 2


def test_a_run_leaves_a_checkpoint_a_state_and_a_table(recipe: Recipe, tmp_path: Path) -> None:
    path = train(recipe, tmp_path / "run", show_progress=False)
    assert path == tmp_path / "run" / "model.pth"
    assert sorted(p.name for p in path.parent.iterdir()) == ["loss.csv", "model.pth", "state.pt"]


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_the_final_checkpoint_holds_the_average_where_there_is_one(recipe: Recipe, tmp_path: Path, ema: float) -> None:
    loaded = load_checkpoint(train(dataclasses.replace(recipe, ema=ema), tmp_path, show_progress=False))
    state = read_file(tmp_path / "state.pt")
    average = {k.removeprefix("module."): v for k, v in (state["average"] or {}).items()}
    wanted = average if ema else state["model"]
    assert loaded.spec == MODEL
    assert loaded.metadata == {"epoch": 6}
    assert all(value.equal(wanted[key]) for key, value in loaded.model.state_dict().items())
    assert loaded.model.freq.weight.equal(state["model"]["freq.weight"]) == (ema == 0)


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


def test_the_table_has_the_mean_loss_and_the_last_rate_of_each_part(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(recipe, steps=7)
    losses = []

    def step(*arguments: Any) -> Tensor:
        losses.append(training_step(*arguments))
        return losses[-1]

    monkeypatch.setattr(hiif_training.loop, "training_step", step)
    train(recipe, tmp_path, show_progress=False)
    table = rows(tmp_path)
    assert list(table[0]) == ["step", "loss", "learning_rate", "seconds"]
    for row, part in zip(table, (slice(0, 3), slice(3, 6), slice(6, 7)), strict=True):
        assert float(row["loss"]) == pytest.approx(float(torch.stack(losses[part]).mean()), abs=2e-6)
        assert int(row["step"]) == min(part.stop, 7)
        assert float(row["learning_rate"]) == pytest.approx(learning_rate(recipe, part.stop - 1), rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [{"steps": 12}, {"batch": 3}, {"scale": (1.0, 2.0)}, {"ema": 0.0}, {"model": {**MODEL, "name": "hiifv3"}}],
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


@pytest.mark.parametrize("content", [{"weights": 1}, {"step": 3, "recipe": {}}])
def test_a_file_that_is_no_state_is_refused(recipe: Recipe, tmp_path: Path, content: dict[str, Any]) -> None:
    write_aside(tmp_path / "state.pt", lambda file: torch.save(content, file))
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        train(recipe, tmp_path, show_progress=False)


def test_a_damaged_state_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, show_progress=False)
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"state\.pt: truncated, damaged or not a checkpoint"):
        train(recipe, tmp_path, show_progress=False)


def test_half_precision_trains_close_to_full_precision(recipe: Recipe) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        chosen = dataclasses.replace(recipe, precision=precision)
        state = start(chosen)
        crops = Crops(chosen, levels=state.model.config.levels, bits=state.model.config.bits)
        losses[precision] = float(training_step(state, chosen, Sample.concatenate([crops[0], crops[1]])))
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]
