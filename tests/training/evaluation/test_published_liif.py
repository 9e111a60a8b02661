"""The LIIF authors' own checkpoint: loaded, exported, and measured against its published figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cached_export import shared_bundle
from hiif_training.checkpoints.checkpoint import LoadedCheckpoint, load_checkpoint
from hiif_training.evaluation.evaluate import Measure, evaluate
from hiif_training.evaluation.options import EvaluatorOptions
from hiif_training.pictures.picture_sets import PictureSet

SET5 = {2: 37.988, 3: 34.400, 4: 32.237}
"""Luma PSNR in dB. Published, 8-bit outputs: 37.97, 34.39, 32.22."""
TOLERANCE = 0.01


@pytest.fixture(scope="module")
def checkpoint(shared: Path) -> Path:
    path = shared / "data" / "published" / "edsr-baseline-liif.pth"
    if not path.is_file():
        pytest.skip("needs the LIIF authors' checkpoint in ../shared/data/published, which is not here")
    return path


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> LoadedCheckpoint:
    return load_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def bundle(loaded: LoadedCheckpoint) -> Path:
    return shared_bundle(loaded.model, loaded.spec, "liif-published")


@pytest.fixture(scope="module")
def wing(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one picture: the middle of Set5's butterfly, 96×96 pixels, and 24×24 of its small picture."""
    folder = tmp_path_factory.mktemp("wing")
    for name, left in (("HR/butterfly.png", 80), ("LR_bicubic/X4/butterflyx4.png", 20)):
        side = 96 if left == 80 else 24
        (folder / name).parent.mkdir(parents=True)
        with Image.open(shared / "data" / "Set5" / name) as picture:
            picture.crop((left, left, left + side, left + side)).save(folder / name)
    return folder


def psnr(model: Path, folder: Path, scale: int) -> float:
    measure, options = Measure(with_ssim=False), EvaluatorOptions(threads=1)
    (found,) = evaluate(str(model), [PictureSet(folder)], [scale], measure, options).results
    assert found.low == "folder"
    mean = found.mean("psnr")
    assert mean is not None
    return mean


def test_the_checkpoint_is_liif_on_edsr_baseline_after_a_thousand_epochs(loaded: LoadedCheckpoint) -> None:
    assert loaded.spec["name"] == "liif"
    assert loaded.spec["args"]["encoder_spec"]["name"] == "edsr-baseline"
    assert loaded.metadata["epoch"] == 1000
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == 346_883 + 1_220_416 + 24


def test_its_figure_on_a_crop_is_the_same_in_pytorch_and_as_a_bundle(
    checkpoint: Path, bundle: Path, wing: Path
) -> None:
    # At 30 dB the error is 0.0316 rms, and outputs that differ by 3e-6 change the figure by at most
    # 8.7 · 3e-6 / 0.0316 = 0.0008 dB. Measured: 2e-7 dB.
    for model in (checkpoint, bundle):
        assert psnr(model, wing, 4) == pytest.approx(30.0011, abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SET5)
def test_its_bundle_has_the_published_figures_on_set5(bundle: Path, shared: Path, scale: int) -> None:
    assert psnr(bundle, shared / "data" / "Set5", scale) == pytest.approx(SET5[scale], abs=TOLERANCE)
