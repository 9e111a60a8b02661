"""The model that ships: what it promises, measured through its ONNX graphs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from hiif_deploy import Upscaler, open_bundle, shipped_models
from hiif_deploy.bundle.loader import DEFAULT_MODEL
from hiif_deploy.images.io import read_image
from hiif_deploy.rendering.verify import check_stored, compare_stored
from hiif_training.evaluation.metrics import psnr_luma
from hiif_training.models.registry import make_model
from hiif_training.queries.axis import grid_queries
from hiif_training.training.recipe import read_recipe

BICUBIC = {2: 33.6838, 4: 28.4321}
"""Set5, luma, mean in dB: MATLAB-style bicubic on the same files."""
GAIN = {2: 4.0, 4: 3.3}
"""What the model must add, in dB."""


def rgb(path: Path) -> NDArray[np.float32]:
    pixels = read_image(path).pixels
    return (pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)).astype(np.float32) / 255


@pytest.mark.parametrize("scale", [2, 4])
def test_the_default_model_beats_bicubic_on_set5(shared: Path, scale: int) -> None:
    folder = shared / "data" / "Set5"
    figures = []
    with Upscaler() as upscaler:
        for truth_path in sorted((folder / "HR").iterdir()):
            low = rgb(folder / "LR_bicubic" / f"X{scale}" / f"{truth_path.stem}x{scale}.png")
            truth = rgb(truth_path)[: low.shape[0] * scale, : low.shape[1] * scale]
            figures.append(psnr_luma(upscaler.upscale(low, scale=float(scale)), truth, scale))
    assert len(figures) == 5
    assert np.mean(figures) >= BICUBIC[scale] + GAIN[scale]


def test_the_default_model_is_small_and_exact() -> None:
    bundle = open_bundle()
    contract = bundle.contract
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) <= 4 << 20
    assert 200_000 <= contract.parameters <= 600_000
    assert contract.decoder.bits == "exact"
    assert contract.parity["max_error"] <= 1e-4


def test_every_shipped_model_has_the_outputs_of_pytorch() -> None:
    assert DEFAULT_MODEL in shipped_models()
    for name in shipped_models():
        with Upscaler(name) as upscaler:
            check_stored(compare_stored(upscaler))


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_the_loss_curve_of_every_shipped_model_is_kept_beside_its_recipe(name: str) -> None:
    recipes = Path(__file__).parents[2] / "training" / "hiif_training" / "recipes"
    recipe = name.removeprefix("hiif-")
    assert (recipes / f"{recipe}.toml").is_file()
    with (recipes / f"{recipe}-loss.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # Some start from trained weights, or from the enlarged input.
    assert np.mean([float(row["loss"]) for row in rows[-10:]]) < float(rows[0]["loss"]) / 1.1


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_a_shipped_model_is_what_its_recipe_describes(name: str) -> None:
    recipes = Path(__file__).parents[2] / "training" / "hiif_training" / "recipes"
    recipe = read_recipe(recipes / f"{name.removeprefix('hiif-')}.toml")
    assert open_bundle(name).contract.model == recipe.model


def decoder_macs(name: str, scale: int) -> tuple[float, float]:
    """Multiplications of a model per input pixel, and of its decoder per output pixel."""
    model = make_model(open_bundle(name).contract.model)
    features, large = torch.zeros(1, model.encoder.out_channels, 8, 8), (8 * scale, 8 * scale)
    queries = grid_queries((8, 8), large, bits="exact", levels=model.config.levels)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        model.decode(features, queries)
    with torch.no_grad(), FlopCounterMode(display=False) as once:
        model.freq(features)
    with torch.no_grad(), FlopCounterMode(display=False) as encoder:
        model.encoder(torch.zeros(1, 3, 8, 8))
    maps = once.get_total_flops()
    return (encoder.get_total_flops() + maps) / 2 / 8**2, (whole.get_total_flops() - maps) / 2 / (8 * scale) ** 2


def test_the_video_model_takes_at_most_seven_tenths_of_the_default_models_work() -> None:
    def work(name: str) -> float:
        once, each = decoder_macs(name, 2)
        return once / 4 + each

    assert work("hiif-video") <= 0.7 * work("hiif-compact")


def test_the_live_model_costs_at_most_nine_thousand_multiplications_per_output_pixel_at_twice_the_size() -> None:
    once, each = decoder_macs("hiif-live", 2)
    assert 5_000 < once / 4 + each <= 9_000


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_shipped_models_need_a_single_pass(name: str) -> None:
    assert open_bundle(name).contract.decoder.statistics_passes == 0
