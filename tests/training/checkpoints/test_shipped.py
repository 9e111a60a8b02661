"""Shipped models' checkpoints: each is found by its name, and is of the model that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiif_deploy.bundle.loader import open_bundle, shipped_models
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.checkpoints.shipped import find_checkpoint, shipped_checkpoints


@pytest.mark.parametrize("name", sorted(shipped_checkpoints()))
def test_a_checkpoint_is_of_the_shipped_model(name: str) -> None:
    assert name in shipped_models()
    contract = open_bundle(name).contract
    loaded = load_checkpoint(find_checkpoint(name))
    assert loaded.spec == contract.model
    assert sum(value.numel() for value in loaded.model.parameters()) == contract.parameters


def test_another_name_stays_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shipped_checkpoints()
    assert find_checkpoint("runs/model.pth") == "runs/model.pth"
    name = next(iter(shipped_checkpoints()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert find_checkpoint(name) == name
