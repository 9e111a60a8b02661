"""Fixed-scale networks in training: every pixel of a crop counts, and the model alone says the scale."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hiif_deploy.errors import ImageError, OptionError
from hiif_training.checkpoints.checkpoint import load_checkpoint
from hiif_training.models.registry import make_model
from hiif_training.training.data import Crops
from hiif_training.training.loop import train
from hiif_training.training.recipe import Recipe, read_recipe
from hiif_training.training.sample_picture import upscaled_sample
from hiif_training.training.training_module import TrainingModule

torch.set_num_threads(1)

RECIPE = """
steps = 30
batch = 2
patch = 8
learning_rate = 2e-3
warmup = 1
save_every = 10
[model]
name = "pixelshuffle"
[model.args]
scale = 3
encoder_spec = { name = "edsr-mini", args = { n_resblocks = 1, n_feats = 8 } }
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two smooth pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    y, x = np.mgrid[:40, :48] / 12
    for n in range(2):
        channels = [127 + 120 * np.sin((k + 1) * x + (n + 1) * y) for k in range(3)]
        Image.fromarray(np.dstack(channels).astype(np.uint8)).save(folder / f"{n}.png")
    return folder


def recipe(folder: Path, *changes: str) -> Recipe:
    path = folder.parent / "recipe.toml"
    path.write_text(RECIPE)
    return read_recipe(path, changes, [str(folder)])


def crops(given: Recipe) -> Crops:
    model = make_model(given.model)
    return Crops(given, model.make_queries, model.traits)


def test_a_sample_holds_every_pixel_of_the_crop_at_the_models_scale(pictures: Path) -> None:
    sample = crops(recipe(pictures))[4]
    assert sample.image.shape == (1, 3, 8, 8)
    assert sample.colours.shape == (1, 24 * 24, 3)
    # Values of EDSR: 0 to 255 around the mean of DIV2K.
    whole = sample.colours[0].reshape(24, 24, 3) + 255 * torch.tensor([0.4488, 0.4371, 0.4040])
    assert 0 <= float(whole.min()) < 60 < 190 < float(whole.max()) <= 255
    small = sample.image[0].permute(1, 2, 0) + 255 * torch.tensor([0.4488, 0.4371, 0.4040])
    assert float((whole.reshape(8, 3, 8, 3, 3).mean((1, 3)) - small).abs().mean()) < 2


def test_a_run_learns_and_its_model_upscales_by_its_scale(pictures: Path, tmp_path: Path) -> None:
    path = train(recipe(pictures), tmp_path / "run", show_progress=False)
    losses = [float(row.split(",")[1]) for row in (tmp_path / "run" / "loss.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.7 * losses[0]
    loaded = load_checkpoint(path)
    assert (loaded.spec["name"], loaded.model.traits.fixed_scale) == ("pixelshuffle", 3)
    assert upscaled_sample(loaded.model).shape == (144, 432, 3)


def test_the_scale_follows_from_the_model(pictures: Path) -> None:
    assert recipe(pictures).scale == (3, 3)
    assert recipe(pictures, "model.args.scale=2").scale == (2, 2)
    with pytest.raises(OptionError, match=r"recipe: scale is \[2, 2\], and the model upscales ×3 only: leave it out"):
        crops(recipe(pictures, "scale=[2, 2]"))


def test_pictures_smaller_than_the_large_crop_are_refused(pictures: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 23)).save(pictures / "small.png")
    with pytest.raises(ImageError, match="1 pictures are smaller than a 24-pixel crop"):
        train(recipe(pictures), tmp_path / "run", show_progress=False)


def test_a_network_starts_from_that_of_another_scale(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = train(recipe(pictures, "steps=1", "model.args.scale=2"), tmp_path / "x2", show_progress=False)
    with caplog.at_level(logging.INFO):
        module = TrainingModule(recipe(pictures, f"init='{first}'"))
    assert "took 10 tensors (encoder 8, upsampler 2)" in caplog.text
    assert "upsampler 2 of another shape" in caplog.text
    assert module.model.encoder.head[0].weight.equal(load_checkpoint(first).model.encoder.head[0].weight)  # type: ignore[union-attr,operator,index]


def test_an_encoder_for_other_values_is_adapted_and_that_is_reported(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hiif_training")
    first = train(recipe(pictures, "steps=1"), tmp_path / "x3", show_progress=False)
    liif: dict[str, Any] = {
        "name": "liif",
        "args": {"encoder_spec": {"name": "edsr-mini", "args": {"n_resblocks": 1, "n_feats": 8}}},
    }
    TrainingModule(Recipe(liif, init=str(first), init_part="encoder"))
    assert any("in another range of values than its checkpoint: its first layer" in text for text in caplog.messages)
