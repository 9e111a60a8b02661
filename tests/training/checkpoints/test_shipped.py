"""Shipped models' checkpoints: each is found by its name, and is of the model that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy.bundle.known import KNOWN_MODELS
from hiif_deploy.bundle.loader import open_bundle, shipped_models
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.checkpoints.shipped import find_checkpoint, shipped_checkpoints


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_a_checkpoint_is_of_the_shipped_model(name: str) -> None:
    contract = open_bundle(name).contract
    loaded = load_checkpoint(find_checkpoint(name))
    assert loaded.spec == contract.model
    assert sum(value.numel() for value in loaded.model.parameters()) == contract.parameters


def test_every_other_checkpoint_is_of_a_known_model() -> None:
    found = {name: Path(find_checkpoint(name)) for name in shipped_checkpoints() if name not in shipped_models()}
    expected = {name: model for name, model in KNOWN_MODELS.items() if model.wheel is None}
    assert {name: path.stat().st_size for name, path in found.items()} == {
        name: model.size for name, model in expected.items()
    }


def test_another_name_stays_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shipped_checkpoints()
    assert find_checkpoint("runs/model.pth") == "runs/model.pth"
    name = next(iter(shipped_checkpoints()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert find_checkpoint(name) == name
