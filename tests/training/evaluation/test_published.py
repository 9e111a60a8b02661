"""A published checkpoint against the paper's figures: names, what is refused, and a measurement that is compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hiif_deploy.cli import app as cli
from hiif_deploy.errors import CheckpointError, OptionError, ParityError
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.evaluation import published
from hiif_training.evaluation.paper import figure
from hiif_training.evaluation.published import PUBLISHED, Compared, check_published, verify_published
from hiif_training.models.registry import make_model
from hiif_training.pictures.picture_sets import PictureSet

SPEC: dict[str, Any] = {
    "name": "hiif",
    "args": {
        "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}},
        "blocks": 2,
        "hidden_dim": 8,
        "mlp_dim": 8,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of one small picture, named as a published one."""
    path = tmp_path_factory.mktemp("sets") / "Set5"
    path.mkdir()
    y, x = np.mgrid[:40, :48] / 9
    Image.fromarray((127 + 120 * np.dstack([np.sin(x + k * y) for k in range(3)])).astype(np.uint8)).save(
        path / "a.png"
    )
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "hiif.pth"
    torch.manual_seed(0)
    save_checkpoint(path, make_model(SPEC), SPEC)
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_every_decoder_of_the_paper_has_a_name_on_every_encoder() -> None:
    assert len(PUBLISHED) == 8 * 3
    assert PUBLISHED["liif-edsr-baseline"] == ("liif", "edsr-baseline")


def test_a_measurement_stands_beside_the_papers_figure(folder: Path, checkpoint: Path) -> None:
    seen: list[int] = []
    found = verify_published("hiif-edsr-baseline", checkpoint, [PictureSet(folder)], [2, 3], advance=seen.append)
    assert [(row.set, row.scale, row.printed) for row in found] == [("Set5", 2, 38.11), ("Set5", 3, 34.54)]
    assert all(math.isfinite(row.measured) and row.measured < row.printed - 0.05 for row in found)
    assert sum(seen) == 2
    with pytest.raises(ParityError, match=r"Set5 ×2: .* dB, published 38.11 dB, allowed ±0.05 dB"):
        check_published(found)


def test_a_figure_within_the_tolerance_passes() -> None:
    check_published([Compared("Set5", 2, 38.07, 38.11)])
    with pytest.raises(ParityError):
        check_published([Compared("Set5", 2, 38.05, 38.11)])
    with pytest.raises(ParityError):
        check_published([Compared("Set5", 2, math.nan, 38.11)])


def test_the_command_measures_and_says_what_is_off(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("verify", checkpoint, "--published", "hiif-edsr-baseline", "--data", folder, "--scales", "2")
    assert run(*words) == 1
    said = capsys.readouterr()
    assert "published" in said.out
    assert "38.11" in said.out
    assert "Set5 ×2" in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--published", "liif-vgg", "--data", "{set}"), "'liif-vgg': unknown; known: metasr-edsr-baseline"),
        (("--published", "hiif-edsr-baseline"), "--published needs --data FOLDER"),
        (("--published", "hiif-edsr-baseline", "--data", "{set}", "--scales", "2.5"), "on Set5 ×2.5: name folders"),
        (("--published", "srno-swinir", "--data", "{set}"), "no figure of SRNO with SwinIR on Set5 ×2"),
    ],
)
def test_what_cannot_be_compared_is_wrong_usage(
    words: tuple[str, ...], message: str, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", checkpoint, *(word.format(set=folder) for word in words)) == 2
    assert message in capsys.readouterr().err


def test_another_model_than_the_name_says_is_refused(folder: Path, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="holds hiif on edsr-baseline, and --published hiif-rdn is another model"):
        verify_published("hiif-rdn", checkpoint, [PictureSet(folder)], [2])


def test_an_unknown_set_is_named(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "Holiday").mkdir()
    (tmp_path / "Holiday" / "a.png").write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(OptionError, match="no figure of HIIF with EDSR-baseline on Holiday ×2"):
        verify_published("hiif-edsr-baseline", checkpoint, [PictureSet(tmp_path / "Holiday")], [2])


def test_only_ciaosr_is_measured_in_tiles_and_it_and_fixed_scale_networks_rounded() -> None:
    assert {name for name, row in published.DECODERS.items() if row.protocol.tiles} == {"ciaosr"}
    assert {name for name, row in published.DECODERS.items() if row.protocol.rounded} == {"ciaosr", "pixelshuffle"}


@pytest.mark.parametrize("name", sorted({decoder for decoder, _ in PUBLISHED.values()}))
def test_every_decoder_has_figures_in_the_paper(name: str) -> None:
    assert figure("RDN", published.DECODERS[name].method, "Set5", 2) is not None
