"""`train` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiif_deploy import cli
from hiif_training.checkpoint import load_checkpoint

RECIPE = """
steps = 2
batch = 2
patch = 8
scale = [1.0, 2.0]
[model]
name = "hiif"
[model.args]
blocks = 2
hidden_dim = 8
mlp_dim = 8
levels = 2
bits = "exact"
encoder_spec = { name = "edsr-mini", args = { n_resblocks = 1, n_feats = 4, no_upsampling = true } }
"""


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_a_recipe_and_pictures_become_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    noise = np.random.default_rng(2).integers(0, 256, (30, 24, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "data" / "a.png")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    assert run("train", tmp_path / "recipe.toml", "--data", tmp_path / "data", "-o", tmp_path / "run") == 0
    assert "next: hiif-deploy export" in capsys.readouterr().err
    loaded = load_checkpoint(tmp_path / "run" / "model.pth")
    assert loaded.metadata["epoch"] == 2
    assert loaded.model.config.bits == "exact"


def test_an_unknown_recipe_lists_the_shipped_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "compactt", "-o", tmp_path) == 2
    assert "no shipped recipe of that name (compact)" in capsys.readouterr().err


def test_a_folder_without_pictures_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run("train", "compact", "--data", tmp_path / "empty", "-o", tmp_path / "run") == 1
    assert "no pictures found" in capsys.readouterr().err
