"""Fixed-scale networks and several models in one evaluation: tables, JSON and the plot."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from hiif_deploy.cli import app as cli
from hiif_deploy.errors import MissingExtraError
from hiif_deploy.support import extras
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.evaluation.evaluate import Evaluation, Figures, Measure, SetFigures, evaluate
from hiif_training.evaluation.evaluation_report import header, rows, terminal_table
from hiif_training.evaluation.options import EvaluatorOptions
from hiif_training.evaluation.paper import paper_row
from hiif_training.evaluation.quality_plot import check_plot, curves, write_plot
from hiif_training.models.registry import make_model
from hiif_training.pictures.picture_sets import PictureSet

EDSR = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}}
SWINIR = {"name": "swinir", "args": {"embed_dim": 4, "depths": [2], "num_heads": [2], "window_size": 4, "img_size": 8}}


def spec(scale: int, encoder: dict[str, Any] = EDSR) -> dict[str, Any]:
    return {"name": "pixelshuffle", "args": {"encoder_spec": encoder, "scale": scale}}


def saved(folder: Path, described: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    path = folder / f"x{described['args']['scale']}.pth"
    save_checkpoint(path, make_model(described), described)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One small smooth picture, in a folder with the name of a set in the paper."""
    folder = tmp_path / "Set5"
    folder.mkdir()
    y, x = np.mgrid[:44, :52] / 20
    channels = [127 + 120 * np.sin((k + 2) * x + y) for k in range(3)]
    Image.fromarray(np.dstack(channels).astype(np.uint8)).save(folder / "a.png")
    return folder


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.mark.parametrize("encoder", [EDSR, SWINIR])
def test_a_network_is_measured_at_its_own_scale_only(
    pictures: Path, tmp_path: Path, encoder: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path, seen = saved(tmp_path, spec(3, encoder)), list[int]()
    caplog.set_level("INFO")
    options = EvaluatorOptions(group_rows=7)  # Without statistics, groups of rows change nothing.
    found = evaluate(str(path), [PictureSet(pictures)], [2, 3, 4], Measure(), EvaluatorOptions(), advance=seen.append)
    grouped = evaluate(str(path), [PictureSet(pictures)], [3], Measure(), options)
    assert (found.fixed_scale, [part.scale for part in found.results]) == (3, [3])
    assert grouped.results[0].mean("psnr") == pytest.approx(found.results[0].mean("psnr"), abs=1e-6)
    assert sum(seen) == 3
    assert caplog.messages == [f"{path} upscales ×3 only: not measured at ×{scale}" for scale in (2, 4)]


def test_other_scales_alone_are_refused(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, spec(3))
    assert run("evaluate", path, "--data", pictures, "--scales", "2,4") == 2
    assert f"{path} upscales ×3 only, and --scales leaves that out" in capsys.readouterr().err


def test_the_paper_has_a_row_for_an_encoder_with_its_own_up_sampler() -> None:
    assert paper_row(spec(2), "Set5", 2) == ("encoder only, EDSR-baseline", 37.99)
    assert paper_row(spec(2), "Set5", 6) is None


def test_several_models_stand_side_by_side(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    x2, x3 = saved(tmp_path, spec(2)), saved(tmp_path, spec(3))
    files = {name: tmp_path / f"out.{name}" for name in ("json", "md", "svg")}
    words = ["--scales", "2,3", "--no-ssim", "--compare", "paper", "--json", files["json"], "--markdown", files["md"]]
    assert run("evaluate", "bicubic", x2, x3, "--data", pictures, *words, "--plot", files["svg"], "-q") == 0
    assert "bicubic, numpy; x2, torch cpu; x3, torch cpu, benchmark protocol" in capsys.readouterr().out
    rows = [row.split(" | ") for row in files["md"].read_text(encoding="utf-8").splitlines()[4:]]
    assert [row[1:3] for row in rows] == [["×2", "bicubic"], ["×2", "x2"], ["×3", "bicubic"], ["×3", "x3"]]
    assert "37.99 (encoder only, EDSR-baseline)" in rows[1][-1]
    found = json.loads(files["json"].read_text(encoding="utf-8"))
    assert [(one["model"], len(one["results"]), one["protocol"]) for one in found] == [
        ("bicubic", 2, "benchmark"), ("x2", 1, "benchmark"), ("x3", 1, "benchmark"),
    ]  # fmt: skip
    assert files["svg"].read_text(encoding="utf-8").startswith("<?xml")


def test_models_of_one_name_are_told_apart_by_their_paths(pictures: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    paths = [saved(tmp_path / name, spec(2)) for name in ("a", "b")]
    assert run("evaluate", *paths, "--data", pictures, "--scales", "2", "--json", tmp_path / "all.json", "-q") == 0
    assert [one["model"] for one in json.loads((tmp_path / "all.json").read_text())] == [str(path) for path in paths]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bicubic", "hiif-video", "--sheet", "a.png"], "--sheet shows the crops of one model: name one"),
        (["bicubic", "--plot", "a.jpg"], "--plot a.jpg: expected a name that ends in .png, .svg, .pdf"),
        (["bicubic", "--plot", "none/a.png"], "the folder none does not exist"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_measured(
    pictures: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", *words, "--data", pictures) == 2
    assert message in capsys.readouterr().err


def test_a_plot_without_matplotlib_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"matplotlib.*\[bench\]"):
        check_plot(Path("a.png"))


def measured(model: str, described: dict[str, Any], psnr: dict[float, float], fixed: int | None = None) -> Evaluation:
    parts = [SetFigures("Set5", s, "pil", (Figures("a", value, None, None, 1.0),)) for s, value in psnr.items()]
    return Evaluation(model, "torch", described, tuple(parts), fixed_scale=fixed)


HIIF = {"name": "hiif", "args": {"encoder_spec": EDSR}}
FOUND = [
    measured("bicubic", {}, {2: 33.7, 4: 28.4, 3: 30.4}),
    measured("x4", spec(4), {4: 32.0}, 4),
    measured("one", HIIF, {2: 37.0, 3: 33.5, 2.5: 35.0}),
    measured("x2", spec(2), {2: 37.9}, 2),
    measured("two", HIIF, {2: 36.0}),
]


def test_each_model_is_a_curve_and_networks_that_differ_in_scale_are_one() -> None:
    drawn = curves(FOUND, with_paper=False)
    assert [curve.label for curve in drawn] == ["bicubic", "edsr-baseline, fixed scales", "one", "two"]
    assert [list(curve.on("Set5").items()) for curve in drawn] == [
        [(2, 33.7), (3, 30.4), (4, 28.4)], [(2, 37.9), (4, 32.0)], [(2, 37.0), (2.5, 35.0), (3, 33.5)], [(2, 36.0)],
    ]  # fmt: skip
    assert not any(curve.is_paper for curve in drawn)


def test_networks_of_one_scale_are_curves_of_their_own() -> None:
    both = [measured(name, spec(2), {2: 37.9}, 2) for name in ("mine", "theirs")]
    assert [curve.label for curve in curves(both, with_paper=False)] == ["mine", "theirs"]


def test_the_papers_rows_are_points_beside_the_models() -> None:
    paper = {curve.label: curve.on("Set5") for curve in curves(FOUND, with_paper=True) if curve.is_paper}
    assert paper == {
        "paper: encoder only, EDSR-baseline": {2: 37.99, 4: 32.09},
        "paper: HIIF, EDSR-baseline": {2: 38.11, 3: 34.54},
    }


@pytest.mark.parametrize("found", [FOUND, FOUND[:1]])
def test_a_picture_is_drawn(found: list[Evaluation], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_plot(tmp_path / "a.png", curves(found, with_paper=True))
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 400
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_a_narrow_terminal_cuts_no_figure() -> None:
    found = [measured(name, HIIF, {2: 33.68381}) for name in ("edsr_baseline_x2", "hiif-compact")]
    table = terminal_table(header(found, with_paper=True), rows(found, with_paper=True))
    console = Console(width=70, file=io.StringIO())
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert all(text.count(word) == 1 for word in ("edsr_baseline_x2", "hiif-compact"))
    assert text.count("33.6838") == text.count("38.11") == 2
