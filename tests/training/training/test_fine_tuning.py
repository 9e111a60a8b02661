"""Runs that start from a checkpoint: frozen and slow encoders, what a checkpoint records, exact resumption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError, OptionError
from hiif_training.checkpoints.checkpoint import load_checkpoint, read_file, save_checkpoint
from hiif_training.models.registry import make_model
from hiif_training.pictures.degradations import Degradations
from hiif_training.training.loop import train
from hiif_training.training.recipe import Recipe
from hiif_training.training.training_module import TrainingModule
from training_runs import MODEL, noise_pictures

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and a checkpoint of LIIF with the encoder of `MODEL`."""
    path = tmp_path_factory.mktemp("fine_tuning")
    noise_pictures(path / "data")
    spec = {"name": "liif", "args": {"encoder_spec": MODEL["args"]["encoder_spec"]}}
    torch.manual_seed(11)
    save_checkpoint(path / "liif.pth", make_model(spec), spec)
    return path


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    return Recipe(
        model=MODEL, data=(str(folder / "data"),), seed=5, steps=4, batch=2, patch=6, learning_rate=3e-3, warmup=0,
        ema=0.9, save_every=2, init=str(folder / "liif.pth"),
    )  # fmt: skip


def tensors(value: Any) -> list[Tensor]:
    """Every tensor of a saved state, in its order."""
    if isinstance(value, Tensor):
        return [value]
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [tensor for entry in inner for tensor in tensors(entry)]


def encoder(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).model.encoder.state_dict()


def stopped(module: TrainingModule, *rest: Any) -> Tensor:
    """Be interrupted in the fourth step."""
    if module.trainer.global_step == 3:
        raise KeyboardInterrupt
    return STEP(module, *rest)


STEP = TrainingModule.training_step


def test_a_run_starts_from_the_checkpoints_weights(recipe: Recipe, folder: Path) -> None:
    expected = encoder(folder / "liif.pth")
    found = TrainingModule(recipe).model.encoder.state_dict()
    assert all(value.equal(expected[name]) for name, value in found.items())


def test_a_frozen_encoder_ends_as_it_began(recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    frozen = train(dataclasses.replace(recipe, freeze="encoder"), tmp_path / "frozen", show_progress=False)
    trained = train(recipe, tmp_path / "trained", show_progress=False)
    before = encoder(folder / "liif.pth")
    assert all(value.equal(before[name]) for name, value in encoder(frozen).items())
    assert not encoder(trained)["head.0.weight"].equal(before["head.0.weight"])
    assert not load_checkpoint(frozen).model.freq.weight.equal(TrainingModule(recipe).model.freq.weight)


def test_a_frozen_encoder_records_no_graph_and_stays_in_evaluation_mode(recipe: Recipe) -> None:
    module = TrainingModule(dataclasses.replace(recipe, freeze="encoder"))
    module.train()
    assert not module.model.encode(torch.rand(1, 3, 6, 6)).requires_grad
    assert not any(part.training for part in module.model.encoder.modules())
    assert module.model.fc_layers.training


def test_an_encoder_with_a_rate_of_its_own_moves_by_that_share(recipe: Recipe) -> None:
    slow = dataclasses.replace(recipe, encoder_rate=0.1)
    groups = TrainingModule(slow).configure_optimizers()["optimizer"].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([3e-3, 3e-4])
    assert [len(group["params"]) for group in groups] == [58, 8]


def test_the_checkpoint_records_what_the_run_started_from(recipe: Recipe, tmp_path: Path) -> None:
    path = train(dataclasses.replace(recipe, freeze="encoder"), tmp_path, show_progress=False)
    expected = {"epoch": 4, "init": "liif.pth", "freeze": "encoder"}
    assert load_checkpoint(path).metadata == expected


def test_the_checkpoint_records_what_the_run_trained_for(recipe: Recipe, tmp_path: Path) -> None:
    degraded = dataclasses.replace(recipe, degrade=Degradations(jpeg=0.5, jpeg_quality=(30, 60)))
    path = train(degraded, tmp_path, show_progress=False)
    assert load_checkpoint(path).metadata["trained_for"] == {"jpeg": [30, 60]}


def test_the_state_of_a_run_is_a_checkpoint_itself(recipe: Recipe, tmp_path: Path) -> None:
    path = train(recipe, tmp_path, show_progress=False)
    expected, found = (load_checkpoint(file) for file in (path, tmp_path / "state.pt"))
    assert found.spec == expected.spec == MODEL
    weights = found.model.state_dict()
    assert all(value.equal(weights[name]) for name, value in expected.model.state_dict().items())


def test_an_interrupted_run_ends_with_the_same_weights_and_reads_its_start_once(
    recipe: Recipe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start.pth"
    start.write_bytes((folder / "liif.pth").read_bytes())
    recipe = dataclasses.replace(
        recipe, init=str(start), freeze="encoder", teacher=str(folder / "liif.pth"), teacher_weight=0.5
    )
    train(recipe, tmp_path / "whole", show_progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "parts", show_progress=False)
    start.unlink()
    train(recipe, tmp_path / "parts", show_progress=False)
    expected, found = (tensors(read_file(tmp_path / run / "state.pt")) for run in ("whole", "parts"))
    assert len(expected) == len(found) > 100
    assert all(one.equal(other) for one, other in zip(expected, found, strict=True))


def test_no_state_contains_the_teacher(recipe: Recipe, folder: Path, tmp_path: Path) -> None:
    taught = dataclasses.replace(recipe, teacher=str(folder / "liif.pth"), teacher_weight=0.5)
    train(taught, tmp_path / "taught", show_progress=False)
    train(recipe, tmp_path / "alone", show_progress=False)
    states = [read_file(tmp_path / run / "state.pt")["state_dict"] for run in ("taught", "alone")]
    assert states[0].keys() == states[1].keys()
    assert not states[0]["model.freq.weight"].equal(states[1]["model.freq.weight"])


def test_a_run_is_not_resumed_with_another_encoder_rate(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, show_progress=False)
    with pytest.raises(CheckpointError, match=r"written with another recipe \(encoder_rate differ\)"):
        train(dataclasses.replace(recipe, encoder_rate=0.1), tmp_path, show_progress=False)


def test_a_state_without_the_newer_keys_was_trained_with_their_defaults(recipe: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe, init="")
    train(recipe, tmp_path, show_progress=False)
    state = read_file(tmp_path / "state.pt")
    del state["recipe"]["init"], state["recipe"]["freeze"], state["recipe"]["teacher_weight"]
    del state["recipe"]["degrade"]["h264"]
    torch.save(state, tmp_path / "state.pt")
    train(recipe, tmp_path, show_progress=False)


def test_an_encoder_that_the_checkpoint_lacks_in_part_is_not_frozen(recipe: Recipe, tmp_path: Path) -> None:
    larger = {"name": "edsr-mini", "args": {"n_resblocks": 2, "n_feats": 4, "no_upsampling": True}}
    model = {"name": "hiif", "args": {**MODEL["args"], "encoder_spec": larger}}
    with pytest.raises(OptionError, match=r"liif\.pth: lacks weights of the encoder to be frozen; choose a checkpoint"):
        train(dataclasses.replace(recipe, model=model, freeze="encoder"), tmp_path, show_progress=False)


def test_a_run_with_branches_ends_in_a_plain_model(recipe: Recipe, tmp_path: Path) -> None:
    path = train(dataclasses.replace(recipe, branches=2), tmp_path, show_progress=False)
    trained, whole = encoder(path), encoder(tmp_path / "state.pt")
    assert list(trained) == list(make_model(MODEL).encoder.state_dict())
    assert all(value.equal(whole[name]) for name, value in trained.items())


def test_a_run_with_branches_resumes_exactly(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(recipe, branches=2)
    wanted = encoder(train(recipe, tmp_path / "whole", show_progress=False))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped", show_progress=False)
    resumed = encoder(train(recipe, tmp_path / "stopped", show_progress=False))
    assert all(value.equal(wanted[name]) for name, value in resumed.items())


def test_an_output_of_zero_leaves_the_enlarged_input(recipe: Recipe) -> None:
    module = TrainingModule(dataclasses.replace(recipe, zero_output=True))
    layer = module.model.output_layer
    assert layer is not None
    assert not layer.weight.any()
    assert not layer.bias.any()  # type: ignore[union-attr]


def test_a_decoder_without_such_a_layer_cannot_start_from_zero(recipe: Recipe) -> None:
    liif = {"name": "liif", "args": {"encoder_spec": MODEL["args"]["encoder_spec"]}}
    with pytest.raises(OptionError, match="zero_output is for HIIF; leave it out for liif"):
        TrainingModule(dataclasses.replace(recipe, model=liif, zero_output=True))


def test_normalised_features_have_mean_zero_and_deviation_one_half() -> None:
    spec = {"name": "hiif", "args": {**MODEL["args"], "encoder_spec": {"name": "span", "args": {"num_blocks": 2}}}}
    module = TrainingModule(Recipe(model=spec, normalise_features=True))
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    module.normalise_features(images)
    deviation, mean = torch.std_mean(module.model.encode(images), dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 0.5), rtol=1e-4, atol=0)


def test_only_an_encoder_with_a_last_layer_can_be_normalised(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="last layer; leave it out for edsr-mini"):
        train(dataclasses.replace(recipe, normalise_features=True), tmp_path / "run", show_progress=False)
