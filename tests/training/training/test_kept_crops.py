"""Crops that are used several times: what is kept, its order, its file, and runs that use it."""

from __future__ import annotations

import collections
import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from hiif_deploy.errors import OptionError
from hiif_training.checkpoints.checkpoint import read_file, save_checkpoint
from hiif_training.models.registry import make_model
from hiif_training.training.data import Sample
from hiif_training.training.kept_crops import KeptCrops
from hiif_training.training.loop import check_machine, make_crops, make_module, train
from hiif_training.training.machine import Machine, World
from hiif_training.training.plan import plan
from hiif_training.training.recipe import Recipe
from hiif_training.training.training_module import TrainingModule
from training_runs import MODEL, noise_pictures

torch.set_num_threads(1)
HALF = 2.0**-11
"""Largest relative error of a value rounded to float16, where it is no smaller than 2⁻¹⁴."""
SMALLEST = 2.0**-25
"""Largest error of smaller values."""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    spec = {"name": "liif", "args": {"encoder_spec": MODEL["args"]["encoder_spec"]}}
    torch.manual_seed(11)
    save_checkpoint(tmp_path / "liif.pth", make_model(spec), spec)
    return Recipe(
        model=MODEL, data=(str(noise_pictures(tmp_path / "data")),), seed=5, steps=6, batch=2, patch=6, queries=20,
        reuse=3, learning_rate=3e-3, warmup=0, save_every=2, init=str(tmp_path / "liif.pth"), init_part="encoder",
        freeze="encoder", teacher=str(tmp_path / "liif.pth"), teacher_weight=0.75,
    )  # fmt: skip


def kept_crops(recipe: Recipe, folder: Path) -> tuple[TrainingModule, KeptCrops]:
    folder.mkdir(exist_ok=True)
    module = make_module(recipe, Machine(), is_resumed=False)
    return module, KeptCrops(make_crops(module, Machine()), module.fixed_values, folder)


def drawn(kept: KeptCrops, sample: Sample) -> Sample:
    """The crop of a sample as it is without kept values, with the teacher's queries."""
    return next(
        crop for crop in map(kept.crops.__getitem__, range(kept.count)) if torch.equal(crop.image, sample.image)
    )


def assert_rounded(found: Tensor | None, exact: Tensor) -> None:
    assert found is not None
    assert bool(((found - exact).abs() <= exact.abs() * HALF + SMALLEST).all())


def test_features_and_teachers_output_are_those_of_the_crop(recipe: Recipe, tmp_path: Path) -> None:
    module, kept = kept_crops(recipe, tmp_path)
    kept.fill()
    assert module.teacher is not None
    for number in range(len(kept)):
        sample = kept[number]
        assert sample.colours.shape == (1, 20, 3)
        assert_rounded(sample.features, module.model.encode(sample.image))
        assert sample.teacher_queries is None
        assert_rounded(sample.taught, module.teacher.answer(drawn(kept, sample)))


def test_every_crop_is_used_as_often_as_the_recipe_says(recipe: Recipe, tmp_path: Path) -> None:
    _, kept = kept_crops(recipe, tmp_path)
    kept.fill()
    images = [kept[number].image.numpy().tobytes() for number in range(len(kept))]
    assert kept.count == 4
    assert set(collections.Counter(images).values()) == {3}
    rounds = {tuple(images[start : start + 4]) for start in (0, 4, 8)}
    assert len(rounds) == 3


def test_losses_are_those_without_kept_values_within_their_rounding(recipe: Recipe, tmp_path: Path) -> None:
    module, kept = kept_crops(dataclasses.replace(recipe, teacher_weight=1.0), tmp_path)
    kept.fill()
    sample = kept[0]
    assert sample.taught is not None
    with torch.no_grad():
        found = module.training_step(sample, 0)
        output = module.model.decode_with_skip(sample.image, sample.features, sample.queries)
        anew = module.training_step(dataclasses.replace(drawn(kept, sample), features=sample.features), 0)
    assert float(found) == float((output - sample.taught).abs().mean())
    # The mean of differences, of which each is changed by the rounding of one value.
    assert float((found - anew).abs()) <= float(sample.taught.abs().mean()) * 2 * HALF


def test_a_file_that_ends_within_a_crop_is_completed(recipe: Recipe, tmp_path: Path) -> None:
    _, kept = kept_crops(recipe, tmp_path)
    kept.fill()
    whole = kept.file.path.read_bytes()
    kept.file.path.write_bytes(whole[: len(whole) // 2 + 3])
    _, again = kept_crops(recipe, tmp_path)
    again.fill()
    assert again.file.path.read_bytes() == whole


def test_crops_of_another_checkpoint_at_the_same_path_are_computed_again(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, kept = kept_crops(recipe, tmp_path)
    kept.fill()
    before = kept.file.path.read_bytes()
    kept_crops(recipe, tmp_path)[1].fill()
    assert (kept.file.path.read_bytes(), caplog.text) == (before, "")
    spec = {"name": "liif", "args": {"encoder_spec": MODEL["args"]["encoder_spec"]}}
    torch.manual_seed(12)
    save_checkpoint(tmp_path / "liif.pth", make_model(spec), spec)
    _, other = kept_crops(recipe, tmp_path)
    other.fill()
    assert "made with other checkpoints or pictures" in caplog.text
    assert other.file.path == kept.file.path
    assert other.file.path.read_bytes() != before
    assert_rounded(other.file.read(3)[0], other._fixed(other.crops[3])[0])


def test_another_recipe_does_not_read_the_file(recipe: Recipe, tmp_path: Path) -> None:
    _, kept = kept_crops(recipe, tmp_path)
    _, longer = kept_crops(dataclasses.replace(recipe, steps=60), tmp_path)
    _, other = kept_crops(dataclasses.replace(recipe, seed=6), tmp_path)
    assert longer.file.path == kept.file.path
    assert other.file.path != kept.file.path
    _, elsewhere = kept_crops(dataclasses.replace(recipe, data=(*recipe.data, *recipe.data)), tmp_path)
    assert elsewhere.file.path != kept.file.path


def test_a_disk_without_room_is_named_before_anything_is_written(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, kept = kept_crops(recipe, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OptionError, match=r"4 crops need .* MiB more, and the disk has 0; raise reuse"):
        kept.fill()
    assert not kept.file.path.exists()


def test_values_beyond_float16_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    _, kept = kept_crops(recipe, tmp_path)
    with pytest.raises(OptionError, match="the range of float16; leave out reuse"):
        kept.file.append(torch.full(kept.file.features, 1e5), torch.zeros(kept.file.taught))


@pytest.mark.parametrize("freeze", ["encoder", "none"])
def test_a_run_resumes_bit_for_bit_and_removes_the_file(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freeze: str
) -> None:
    recipe = dataclasses.replace(recipe, freeze=freeze)
    train(recipe, tmp_path / "whole", show_progress=False)
    step = TrainingModule.training_step

    def stopped(module: TrainingModule, *rest: object) -> Tensor:
        if module.trainer.global_step == 3:
            raise KeyboardInterrupt
        return step(module, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "parts", show_progress=False)
    (file,) = (tmp_path / "parts").glob("*.f16")
    # Even without its file.
    file.unlink()
    train(recipe, tmp_path / "parts", show_progress=False)
    states = [read_file(tmp_path / name / "state.pt")["state_dict"] for name in ("whole", "parts")]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())
    assert not list(tmp_path.glob("*/*.f16"))


def test_the_plan_counts_what_is_computed_once(recipe: Recipe, tmp_path: Path) -> None:
    estimate = plan(recipe, tmp_path / "run", Machine())
    assert estimate.kept_seconds > 0
    assert estimate.seconds == estimate.kept_seconds + 6 * estimate.step_seconds
    assert "crops, once" in dict(estimate.rows())
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(recipe: Recipe) -> None:
    with pytest.raises(OptionError, match="reuse 3 needs a single process, not 2"):
        check_machine(recipe, Machine(), World(0, 2, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "none", "teacher": "", "teacher_weight": 0.0}, "reuse 3 keeps nothing without freeze 'encoder'"),
        ({"reuse": 0}, "reuse is 0, expected at least 1"),
        ({"queries": 37}, "queries is 37, expected 1 to patch² = 36, or 0"),
        ({"queries": -1}, "queries is -1"),
    ],
)
def test_recipes_out_of_range_are_refused(recipe: Recipe, changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]
