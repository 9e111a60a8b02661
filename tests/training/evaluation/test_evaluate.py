"""Evaluation: the published baseline, engines that agree, figures that add up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import TINY_SPEC
from hiif_deploy import Upscaler
from hiif_deploy.cli import app as cli
from hiif_deploy.errors import OptionError
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.evaluation.evaluate import Evaluation, Measure, evaluate, parse_scales
from hiif_training.evaluation.options import EvaluatorOptions, group_rows
from hiif_training.pictures.picture_sets import PictureSet


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small smooth pictures."""
    folder = tmp_path_factory.mktemp("set") / "Tiny"
    folder.mkdir()
    for n in range(2):
        y, x = np.mgrid[: 50 + n, :64] / 20
        channels = [127 + 120 * np.sin((k + 2) * x + (n + 1) * y) for k in range(3)]
        Image.fromarray(np.dstack(channels).astype(np.uint8)).save(folder / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    save_checkpoint(path, tiny_model, TINY_SPEC)
    return path


def measured(model: str | Path, folder: Path, scales: list[float], **options: Any) -> Evaluation:
    return evaluate(str(model), [PictureSet(folder)], scales, Measure(), EvaluatorOptions(**options))


def psnr(found: Evaluation) -> list[float | None]:
    return [part.mean("psnr") for part in found.results]


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.mark.parametrize(("scale", "expected"), [(2, 33.6838), (3, 30.4063), (4, 28.4321)])
def test_bicubic_has_its_known_figure_on_set5(shared: Path, scale: int, expected: float) -> None:
    found = evaluate("bicubic", [PictureSet(shared / "data" / "Set5")], [scale], Measure(), EvaluatorOptions())
    assert found.results[0].low == "folder"
    assert psnr(found) == pytest.approx([expected], abs=5e-4)


@pytest.mark.parametrize(("scale", "rows"), [(2, None), (4, 100), (6.5, None)])
def test_onnx_runtime_and_pytorch_agree(
    shared: Path, tmp_path: Path, tiny_bundle: Path, checkpoint: Path, scale: float, rows: int | None
) -> None:
    for part in ("HR/bird.png", "LR_bicubic"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).symlink_to(shared / "data" / "Set5" / part)
    exported, plain = (measured(model, tmp_path, [scale], group_rows=rows) for model in (tiny_bundle, checkpoint))
    assert (exported.engine, plain.engine) == ("ONNX Runtime, cpu, fp32", "torch cpu")
    for one, other in zip(exported.results, plain.results, strict=True):
        for a, b in zip(one.pictures, other.pictures, strict=True):
            assert a.psnr == pytest.approx(b.psnr, abs=1e-3)
            assert a.ssim == pytest.approx(b.ssim, abs=1e-4)


def test_protocols_measure_different_things(pictures: Path) -> None:
    figures = []
    for protocol in ("benchmark", "div2k"):
        measure = Measure(protocol)  # type: ignore[arg-type]
        figures.append(psnr(evaluate("bicubic", [PictureSet(pictures)], [2], measure, EvaluatorOptions())))
    assert figures[0] != figures[1]


def test_groups_of_rows_are_another_measurement(pictures: Path, checkpoint: Path) -> None:
    assert psnr(measured(checkpoint, pictures, [2])) != psnr(measured(checkpoint, pictures, [2], group_rows=20))


def test_window_encoders_are_padded_as_published_at_whole_scales_only() -> None:
    assert group_rows(None, 8, 3.0) is not None
    assert group_rows(None, 8, 2.5) is None
    assert group_rows(None, 1, 3.0) is None
    assert group_rows(300, 1, 3.0) == 300


def test_the_mean_is_over_the_pictures(pictures: Path) -> None:
    (part,) = measured("bicubic", pictures, [2]).results
    assert (part.set, part.scale, part.low, len(part.pictures)) == ("Tiny", 2, "pil", 2)
    assert part.mean("psnr") == pytest.approx((part.pictures[0].psnr + part.pictures[1].psnr) / 2)
    assert part.mean("lpips") is None


@pytest.mark.parametrize("text", ["", "2,x", "0.5", "nan", "inf", "2,,3"])
def test_scales_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected numbers of at least 1"):
        parse_scales(text)
    assert parse_scales("2,3.5") == [2, 3.5]


def test_the_command_writes_figures_a_table_and_a_sheet(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "markdown", "sheet.png")}
    words = ["--json", files["json"], "--markdown", files["markdown"], "--sheet", files["sheet.png"]]
    assert run("evaluate", "bicubic", "--data", pictures, "--scales", "2,3", "--compare", "paper", *words) == 0
    assert "benchmark protocol" in capsys.readouterr().out
    found = json.loads(files["json"].read_text(encoding="utf-8"))
    assert (found["model"], found["protocol"], found["statistics"]) == ("bicubic", "benchmark", "global")
    assert [part["scale"] for part in found["results"]] == [2, 3]
    assert [entry["name"] for entry in found["results"][0]["pictures"]] == ["0", "1"]
    table = files["markdown"].read_text(encoding="utf-8").splitlines()
    assert f"{found['results'][0]['mean']['psnr']:.4f}" in table[4]
    with Image.open(files["sheet.png"]) as sheet:
        assert sheet.width > sheet.height / 4 > 300


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hiif-compact", "--engine", "torch"], "--engine torch runs checkpoints, and hiif-compact is none"),
        (["CHECKPOINT", "--engine", "onnxruntime"], "first hiif-deploy export CHECKPOINT -o DIR, then evaluate DIR"),
        (
            ["bicubic", "--engine", "caffe"],
            "--engine 'caffe': expected one of auto, torch, onnxruntime, openvino, native, tensorrt",
        ),
        (["bicubic", "--provider", "cuda"], "--provider cuda: bicubic runs on the processor"),
        (["hiif-video", "--engine", "native", "--provider", "cuda"], "--provider cuda is for ONNX Runtime and PyTorch"),
        (["CHECKPOINT", "--provider", "cuda:1"], "--provider cuda:1: a checkpoint runs on cpu or cuda"),
        (["bicubic", "--threads", "-1"], "threads is -1"),
        (["bicubic", "--protocol", "mine"], "--protocol 'mine': expected one of benchmark, div2k"),
        (["bicubic", "--statistics", "some"], "--statistics 'some': expected global, or output rows per group"),
        (["bicubic", "--lr", "nearest"], "--lr 'nearest': expected matlab or pil"),
        (["bicubic", "--compare", "us"], "--compare 'us': expected paper"),
        (["bicubic", "--lpips"], "--lpips needs the package lpips, which is not installed: pip install lpips"),
        (["bicubic", "--json", "none/a.json"], "the folder none does not exist; create it first"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    pictures: Path, checkpoint: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("hiif_training.evaluation.lpips_metric.find_spec", lambda _: None)
    words = [word.replace("CHECKPOINT", str(checkpoint)) for word in words]
    assert run("evaluate", *words, "--data", pictures) == 2
    assert message.replace("CHECKPOINT", str(checkpoint)) in capsys.readouterr().err


def test_an_unknown_model_is_named(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "nothing.pth", "--data", pictures) == 1
    assert "nothing.pth: no such folder, and no model of that name" in capsys.readouterr().err


def test_a_bundle_is_evaluated_without_pytorch_and_the_report_names_its_engine(pictures: Path, tmp_path: Path) -> None:
    words = ["evaluate", "hiif-video", "--data", pictures, "--scales", "2", "-q", "--json", tmp_path / "all.json"]
    program = (
        "import sys; sys.modules['torch'] = None; from hiif_deploy.cli import main; "
        f"main({[str(word) for word in words]!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "all.json").read_text())
    assert found["engine"] == "ONNX Runtime, cpu, fp32"
    assert found["results"][0]["mean"]["ssim"] > 0.9


def test_the_engine_in_the_report_is_the_one_that_ran(pictures: Path) -> None:
    pytest.importorskip("openvino")
    found = measured("hiif-video", pictures, [2], engine="openvino")
    with Upscaler("hiif-video", engine="openvino") as upscaler:
        assert found.engine == upscaler.description
