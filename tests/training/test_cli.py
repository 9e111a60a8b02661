"""`train` as a user runs it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hiif_deploy.cli import app as cli
from hiif_training import train_command
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.training.training_module import TrainingModule

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
attention_blocks = 0
bits = "exact"
encoder_spec = { name = "edsr-mini", args = { n_resblocks = 1, n_feats = 4, no_upsampling = true } }
"""


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """`train` with a recipe and a picture, into tmp_path / "run"."""
    (tmp_path / "data").mkdir()
    noise = np.random.default_rng(2).integers(0, 256, (30, 24, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "data" / "a.png")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return ["train", tmp_path / "recipe.toml", "--data", tmp_path / "data", "-o", tmp_path / "run"]


def test_a_recipe_and_pictures_become_a_checkpoint(
    tmp_path: Path, words: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 0
    assert "next: hiif-deploy export" in capsys.readouterr().err
    loaded = load_checkpoint(tmp_path / "run" / "model.pth")
    assert loaded.metadata["epoch"] == 2
    assert loaded.model.config.bits == "exact"


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_step_it_came_in_and_says_how_to_go_on(
    tmp_path: Path, words: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    number: int, code: int,
) -> None:  # fmt: skip
    step = TrainingModule.training_step

    def signalled(module: TrainingModule, *rest: Any) -> Any:
        os.kill(os.getpid(), number)
        return step(module, *rest)

    monkeypatch.setattr(TrainingModule, "training_step", signalled)
    assert run(*words) == code
    said = capsys.readouterr().err.splitlines()
    kept = f"1 of 2 steps are saved in {tmp_path / 'run' / 'state.pt'}; run the same command again to resume"
    assert said == [
        "hiif-deploy: stopping after this step is saved; a second signal stops at once",
        f"hiif-deploy: error: interrupted: {kept}",
    ]


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_has_its_own_exit_code(
    words: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def signalled(*_: Any) -> Any:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainingModule, "training_step", signalled)
    assert run(*words, "-q") == code
    assert capsys.readouterr().err.endswith("hiif-deploy: error: interrupted at once: no step was saved\n")


def test_an_unknown_recipe_lists_the_shipped_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "compactt", "-o", tmp_path) == 2
    err = capsys.readouterr().err
    assert "no shipped recipe of that name (" in err
    names = ("compact", "video", "ablation", "published-cosine", "paper-edsr", "paper-rdn", "paper-swinir")
    assert all(name in err for name in (*names, "paper-v1-h", "paper-v2-ms", "paper-v3-mh"))


def test_help_names_every_shipped_recipe() -> None:
    folder = Path(train_command.__file__).parent / "recipes"
    names = {path.stem for path in folder.glob("*.toml")}
    assert {"compact", "liif", "srno"} <= names
    assert train_command.RECIPE_HELP.removesuffix(".").split(": ")[1].split(", ") == sorted(names)


def test_a_folder_without_pictures_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run("train", "live", "--data", tmp_path / "empty", "-o", tmp_path / "run") == 1
    assert "no pictures found" in capsys.readouterr().err


def test_a_recipe_is_changed_on_the_command_line(tmp_path: Path, words: list[object]) -> None:
    assert run(*words, "--set", "steps=3", "--set", "model.args.levels=3", "-q") == 0
    loaded = load_checkpoint(tmp_path / "run" / "model.pth")
    assert (loaded.metadata["epoch"], loaded.model.config.levels) == (3, 3)


def test_a_run_starts_from_a_checkpoint_with_the_encoder_frozen(
    tmp_path: Path, words: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "-q") == 0
    first = tmp_path / "run" / "model.pth"
    tuned = [*words[:-1], tmp_path / "tuned", "--init", first, "--freeze", "encoder"]
    capsys.readouterr()
    assert run(*tuned) == 0
    assert f"{first}: took 22 tensors (encoder 8, freq 2, fc_layers 12)" in capsys.readouterr().err
    models = [load_checkpoint(path).model for path in (first, tmp_path / "tuned" / "model.pth")]
    assert models[0].encoder.head[0].weight.equal(models[1].encoder.head[0].weight)  # type: ignore[union-attr]
    assert not models[0].freq.weight.equal(models[1].freq.weight)


def test_freezing_without_weights_is_refused(words: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words, "--freeze", "encoder") == 2
    assert "freeze 'encoder' needs trained weights for it: --init CHECKPOINT" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, words: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--dry-run", "--set", "steps=1000") == 0
    plan = capsys.readouterr().out
    for name in ("parameters", "pictures", "1,000", "2 in each of 1 processes", "MiB", "per step", "expected end"):
        assert name in plan
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_what_is_done_already(
    tmp_path: Path, words: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "-q") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    assert run(*words, "--dry-run") == 0
    assert "2, 2 of them done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before


def test_damaged_pictures_are_named_skipped_and_counted(
    tmp_path: Path, words: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "b.png").write_bytes(b"not a picture")
    assert run(*words, "--set", "steps=6", "-q") == 0
    err = capsys.readouterr().err
    assert err.count("b.png: not a readable picture; skipped") == 1
    assert "1 damaged pictures were skipped; remove or replace them" in err


def test_too_small_pictures_are_refused_before_anything_starts(
    tmp_path: Path, words: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (20, 7)).save(tmp_path / "data" / "small.png")
    assert run(*words) == 1
    assert "1 pictures are smaller than a 8-pixel crop" in capsys.readouterr().err
    assert not (tmp_path / "run" / "loss.csv").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "stebs=1"], "unknown key 'stebs'; did you mean steps?"),
        (["--device", "tpu"], "device 'tpu': expected one of auto, cpu, cuda"),
        (["--workers", "-1"], "workers and cache must be at least 0"),
    ],
)
def test_wrong_usage_is_told(
    words: list[object], change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, *change) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_cuda_is_not_replaced_silently(words: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words, "--device", "cuda") == 1
    assert "device cuda: PyTorch finds no usable CUDA device" in capsys.readouterr().err


@pytest.mark.early
def test_from_pictures_to_a_larger_picture(
    tmp_path: Path, words: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Train, be asked again and go on, export, evaluate, upscale."""
    assert run(*words, "-q") == 0
    assert run(*words, "-q") == 0
    bundle, picture = tmp_path / "bundle", tmp_path / "data" / "a.png"
    assert run("export", tmp_path / "run" / "model.pth", "-o", bundle, "--precision", "fp32", "-q") == 0
    assert run("evaluate", bundle, "--data", tmp_path / "data", "--scales", "2", "--no-ssim", "-q") == 0
    assert "bundle, ONNX Runtime, cpu, fp32, benchmark protocol" in capsys.readouterr().out
    assert run("upscale", picture, "-o", tmp_path / "large.png", "--scale", "2.5", "-b", bundle, "-q") == 0
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (60, 75)
