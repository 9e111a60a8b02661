"""One sentence per run warns of pictures with degradations that the model was not trained for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiif_deploy import shipped_models
from hiif_deploy.bundle.added import add_bundle
from hiif_deploy.bundle.contract import TrainedFor
from hiif_deploy.cli import main
from hiif_deploy.images.degradation import Degradation
from hiif_deploy.images.samples import sample
from hiif_deploy.pictures.suitability import untrained, warning

MODEL = "hiif-video"


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIIF_DEPLOY_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clean picture, a JPEG of quality 30 and a noisy one."""
    root = tmp_path / "in"
    root.mkdir()
    pixels = sample("coffee")[:90, :100]
    noise = np.random.default_rng(1).normal(0, 20, pixels.shape)
    Image.fromarray(pixels).save(root / "clean.png")
    Image.fromarray(pixels).save(root / "old.jpg", quality=30)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(root / "noisy.png")
    return root


def upscale(*words: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["upscale", *map(str, words), "-b", MODEL, "--scale", "1.1"])
    assert stop.value.code == 0


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "trained on" in line]


def add_trained_model(name: str, trained_for: dict[str, list[float]], source: Path) -> None:
    folder = source / name
    folder.mkdir()
    for path in shipped_models()[MODEL].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    value = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    value["provenance"]["trained_for"] = trained_for
    (folder / "bundle.json").write_text(json.dumps(value), encoding="utf-8")
    add_bundle(folder, name)


@pytest.mark.parametrize(
    ("trained", "left"),
    [
        (TrainedFor(), Degradation(40, 10)),
        (TrainedFor(jpeg=(15, 95)), Degradation(noise=10)),
        (TrainedFor(jpeg=(50, 95), noise=(1, 15)), Degradation(jpeg=40)),
        (TrainedFor(jpeg=(15, 30), noise=(1, 5)), Degradation(noise=10)),
        (TrainedFor(jpeg=(15, 95), noise=(1, 15)), None),
    ],
)
def test_what_a_model_was_trained_for_is_left_out(trained: TrainedFor, left: Degradation | None) -> None:
    assert untrained(Degradation(40, 10), trained) == left


def test_a_clean_picture_suits_every_model() -> None:
    assert untrained(Degradation(), TrainedFor()) is None


def test_one_picture_is_named_with_what_was_found() -> None:
    assert warning({"a.jpg": Degradation(40, 12.4)}, 3, "sample", TrainedFor()) == (
        "a.jpg: JPEG of quality 40 with noise of about σ 12; sample was trained on clean pictures, so artefacts and "
        "noise may stay or be amplified; --bundle hiif-photo is trained for this"
    )


def test_several_pictures_are_counted() -> None:
    found = {"a.jpg": Degradation(40), "b.jpg": Degradation(30), "c.png": Degradation(noise=21)}
    assert warning(found, 9, "sample", TrainedFor()) == (
        "3 of 9 pictures: 2 JPEG below quality 90 (lowest 30), 1 noisy (up to about σ 21), the first a.jpg; sample was "
        "trained on clean pictures, so artefacts and noise may stay or be amplified; "
        "--bundle hiif-photo is trained for this"
    )


def test_the_warning_says_what_the_model_was_trained_for() -> None:
    trained = TrainedFor(jpeg=(50, 95), noise=(1, 15))
    assert "was trained on clean pictures and JPEG of quality 50 or more and noise up to σ 15, so artefacts may" in (
        warning({"a.jpg": Degradation(40)}, 1, "sample", trained)
    )


def test_a_model_that_was_trained_for_all_that_was_found_is_named(models: Path, tmp_path: Path) -> None:
    add_trained_model("partly", {"jpeg": [15, 95]}, tmp_path)
    (models / "damaged").mkdir()
    (models / "damaged" / "bundle.json").write_text("{")
    found = {"a.jpg": Degradation(5, 40)}  # more than hiif-photo was trained for
    assert "--bundle" not in warning(found, 1, "sample", TrainedFor())
    add_trained_model("robust", {"jpeg": [1, 95], "noise": [0, 50]}, tmp_path)
    assert warning(found, 1, "sample", TrainedFor()).endswith("; --bundle robust is trained for this")


def test_a_folder_ends_with_one_warning(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upscale(folder, "-o", tmp_path / "out")
    (line,) = warnings(capsys)
    assert line.startswith("hiif-deploy: 2 of 3 pictures: 1 JPEG below quality 90 (lowest 30), 1 noisy (up to about σ ")


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--json",)])
def test_a_single_picture_is_warned_of(
    words: tuple[str, ...], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upscale(folder / "old.jpg", "-o", tmp_path / "out.png", *words)
    (line,) = warnings(capsys)
    assert line.startswith(f"hiif-deploy: {folder / 'old.jpg'}: JPEG of quality 30; hiif-video was trained on clean")


def test_a_report_lists_what_was_found(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upscale(folder, "-o", tmp_path / "out", "--json")
    found = [file["untrained"] for file in json.loads(capsys.readouterr().out)["files"]]
    assert found == [None, {"jpeg": None, "noise": pytest.approx(20, rel=0.3)}, {"jpeg": 30, "noise": None}]


def test_quiet_runs_and_clean_pictures_have_no_warning(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upscale(folder / "old.jpg", "-o", tmp_path / "out.png", "--quiet")
    upscale(folder / "clean.png", "-o", tmp_path / "clean.png")
    assert warnings(capsys) == []
