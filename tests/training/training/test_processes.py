"""Several processes train as one, and a killed one loses nothing but the steps since its last state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiif_training.checkpoints.checkpoint import read_file

ROOT = Path(__file__).resolve().parents[3]
RECIPE = """
steps = 20
batch = 4
patch = 8
warmup = 2
save_every = 1
data = ["pictures"]
[model]
name = "hiif"
[model.args]
blocks = 2
hidden_dim = 16
levels = 3
bits = "exact"
encoder_spec = { name = "edsr-mini", args = { n_resblocks = 1, no_upsampling = true } }
"""
TRAIN = ("-m", "hiif_deploy.cli", "train", "recipe.toml", "--threads", "1", "--quiet", "--device", "cpu")

KILLING = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from hiif_training.checkpoints.checkpoint import read_file
from hiif_training.training.loop import train
from hiif_training.training.recipe import read_recipe
from hiif_training.training.training_module import TrainingModule
torch.set_num_threads(1)
recipe = read_recipe(Path("recipe.toml"), ["steps=100000"])
train(read_recipe(Path("recipe.toml"), ["steps=1"]), Path("warm-up"), show_progress=False)
chance, steps, cut, state = random.Random(1), [], 0, Path("run/state.pt")
def written():
    return state.stat().st_mtime_ns if state.exists() else None
for n in range(20):
    child = os.fork()
    if child == 0:
        train(recipe, Path("run"), show_progress=False)
        os._exit(1)
    before = written()
    while written() == before:
        time.sleep(0.001)
    time.sleep(chance.random() / 5)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    cut += any(path.suffix == ".pt" for path in Path("run").glob(".*"))
    steps.append(read_file(state)["global_step"])
print(*steps)
print(cut, file=sys.stderr)
"""
"""Twenty runs in one folder, each killed at a random moment; every state that is left can be read. Processes are
forked so that PyTorch is imported once."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe and its pictures."""
    (tmp_path / "pictures").mkdir()
    random = np.random.default_rng(3)
    for n in range(3):
        coarse = random.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((40, 40)).save(tmp_path / "pictures" / f"{n}.png")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def run(folder: Path, *words: str) -> str:
    paths = [str(ROOT / area) for area in (".", "export", "engines", "training")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.early
@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_batch(folder: Path) -> None:
    few = ("--set", "steps=6")
    run(folder, *TRAIN, "-o", "one", *few)
    run(folder, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *TRAIN, "-o", "two", *few)
    one, two = (read_file(folder / name / "state.pt") for name in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 6
    assert len(one["state_dict"]) > 30
    largest = max(float((value - two["state_dict"][name]).abs().max()) for name, value in one["state_dict"].items())
    assert largest < 1e-5
    assert (folder / "one" / "model.pth").exists()
    assert (folder / "two" / "model.pth").exists()


@pytest.mark.early
def test_a_run_killed_twenty_times_always_leaves_a_whole_state(folder: Path) -> None:
    steps = [int(word) for word in run(folder, "-c", KILLING).split()]
    assert len(steps) == 20
    assert steps == sorted(set(steps))
    assert steps[0] >= 1


@pytest.mark.early
def test_a_killed_run_ends_with_the_same_weights(folder: Path) -> None:
    run(folder, *TRAIN, "-o", "whole", "--set", "steps=12")
    words = [sys.executable, *TRAIN, "-o", "parts", "--set", "steps=12"]
    paths = os.pathsep.join(str(ROOT / area) for area in (".", "export", "engines", "training"))
    child = subprocess.Popen(words, cwd=folder, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    while not (folder / "parts" / "state.pt").exists():
        assert child.poll() is None
    child.kill()
    child.wait()
    assert read_file(folder / "parts" / "state.pt")["global_step"] < 12
    run(folder, *TRAIN, "-o", "parts", "--set", "steps=12")
    whole, parts = (read_file(folder / name / "state.pt") for name in ("whole", "parts"))
    assert all(value.equal(parts["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert not [path for path in (folder / "parts").iterdir() if path.name.startswith(".")]
