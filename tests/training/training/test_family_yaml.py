"""Configurations of the LIIF family: what they mean here, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hiif_deploy.errors import OptionError
from hiif_training.training.recipe import Recipe, read_recipe

COSINE = """
train_dataset:
  dataset: {name: image-folder, args: {root_path: ROOT, repeat: 40, cache: in_memory}}
  wrapper: {name: sr-implicit-downsampled-fast, args: {inp_size: 48, scale_max: 4, augment: true}}
  batch_size: 16
val_dataset: {dataset: {name: image-folder}, batch_size: 1}
eval_type: div2k-4
data_norm: {inp: {sub: [0.5], div: [0.5]}, gt: {sub: [0.5], div: [0.5]}}
model: {name: hiif, args: {encoder_spec: {name: edsr-baseline, args: {no_upsampling: true}}, blocks: 16}}
optimizer: {name: adam, args: {lr: 4.e-4}}
epoch_max: 1050
cosine_lr_warmup: {warmup_t: 50, warmup_lr_init: 2.e-6, lr_min: 2.e-6}
epoch_save: 50
resume: ./save/epoch-last.pth
"""
ALIASES = ", ".join(f"&a{n} [{f'*a{n - 1}, *a{n - 1}' if n else 1}]" for n in range(40))
"""Each stands for two of the one before."""
STEPPED = COSINE.replace(
    "cosine_lr_warmup: {warmup_t: 50, warmup_lr_init: 2.e-6, lr_min: 2.e-6}",
    "multi_step_lr: {milestones: [200, 400], gamma: 0.5}",
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures: an epoch of 40 times each is 25 batches of 16."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(10):
        Image.new("RGB", (60, 60)).save(folder / f"{n}.png")
    return folder


def read(folder: Path, text: str, pictures: Path) -> Recipe:
    path = folder / "train.yaml"
    path.write_text(text.replace("ROOT", str(pictures)), encoding="utf-8")
    return read_recipe(path)


def test_epochs_become_steps(tmp_path: Path, pictures: Path) -> None:
    recipe = read(tmp_path, COSINE, pictures)
    assert (recipe.steps, recipe.warmup, recipe.schedule_every) == (1050 * 25, 50 * 25, 25)
    assert (recipe.schedule, recipe.learning_rate, recipe.final_learning_rate) == ("published-cosine", 4e-4, 2e-6)
    assert (recipe.batch, recipe.patch, recipe.scale, recipe.data) == (16, 48, (1, 4), (str(pictures),))
    assert recipe.model["args"]["blocks"] == 16


def test_milestones_become_steps(tmp_path: Path, pictures: Path) -> None:
    recipe = read(tmp_path, STEPPED, pictures)
    assert (recipe.schedule, recipe.milestones, recipe.decay, recipe.warmup) == ("steps", (5000, 10000), 0.5, 0)


def test_the_command_line_names_other_folders_and_values(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "train.yml").write_text(COSINE, encoding="utf-8")
    recipe = read_recipe(tmp_path / "train.yml", ["steps=50", "warmup=2"], [str(pictures)])
    assert (recipe.data, recipe.steps, recipe.warmup) == ((str(pictures),), 50, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: adam", "name: sgd", "optimizer.name is 'sgd': this project trains with 'adam' only"),
        ("augment: true", "augment: false", "wrapper.args.augment is False: this project trains with True only"),
        ("scale_max: 4", "scale_max: 4, sample_q: 99", "sample_q is 99: this project trains with 2304 only"),
        ("sub: [0.5]", "sub: [0.4]", "data_norm.inp is"),
        ("image-folder, args: {r", "paired, args: {r", "dataset.name is 'paired'"),
        ("epoch_max: 1050", "epoch_max: many", "the file: epoch_max is 'many', expected a whole number"),
        ("epoch_max: 1050", "epoch_maxi: 1050", "the file: unknown key 'epoch_maxi'"),
        ("warmup_lr_init: 2.e-6", "warmup_lr_init: 1.e-6", "warmup_lr_init is 1e-06"),
        ("model: {", "model: [", "cannot be read"),
        ("scale_max: 4", "scale_max: many", "wrapper.args: scale_max is 'many', expected a number"),
        ("scale_max: 4", "scale_max: .nan", "wrapper.args: scale_max is nan, expected a number"),
        ("lr: 4.e-4", "lr: [1]", "optimizer.args: lr is [1], expected a number"),
        ("epoch_max: 1050", f"epoch_max: {10**30}", "the file: epoch_max is larger than"),
        ("epoch_save: 50", "epoch_save: 2001-99-99", "cannot be read"),
        ("epoch_save: 50", f"epoch_save: {'[' * 5000}", "cannot be read"),
        ("epoch_save: 50", f"epoch_save: {'[' * 100 + ']' * 100}", "cannot be read: nested deeper than 64 levels"),
        ("epoch_save: 50", f"epoch_save: [{ALIASES}]", "cannot be read: nested deeper than 64 levels"),
    ],
)
def test_what_this_project_does_otherwise_is_refused(
    tmp_path: Path, pictures: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(OptionError) as caught:
        read(tmp_path, COSINE.replace(old, new, 1), pictures)
    assert message in str(caught.value)
    assert "train.yaml" in str(caught.value)


def test_a_file_with_python_objects_is_not_executed(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read(tmp_path, "model: !!python/object/apply:os.getcwd []", pictures)
