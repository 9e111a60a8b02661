"""The command line, run as a user runs it: outputs, messages, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiif_deploy import Upscaler
from hiif_deploy.cli import app as cli
from hiif_deploy.errors import BundleError


@dataclass
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process."""

    def call(*words: object) -> Result:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Result(int(exit_.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo of été.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (10, 14, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_picture_is_upscaled_beside_its_input(run: Run, photo: Path, tiny_bundle: Path) -> None:
    result = run("upscale", photo, "-b", tiny_bundle, "--scale", "3.3")
    assert result.code == 0
    made = photo.with_name("photo of été_x3.3.png")
    with Image.open(made) as picture:
        assert picture.size == (46, 33)
    assert "46x33 in" in result.err
    assert result.out == ""


def test_the_file_equals_the_librarys_output(run: Run, photo: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    run("upscale", photo, "-b", tiny_bundle, "--size", "30x40", "-o", tmp_path / "new" / "out.png")
    with Image.open(photo) as small, Image.open(tmp_path / "new" / "out.png") as large, Upscaler(tiny_bundle) as up:
        assert np.array_equal(np.asarray(large), up.upscale(np.asarray(small), size=(40, 30)))


def test_an_existing_output_is_skipped_unless_overwrite(run: Run, photo: Path, tiny_bundle: Path) -> None:
    made = photo.with_name("photo of été_x2.png")
    made.write_bytes(b"mine")
    result = run("upscale", photo, "-b", tiny_bundle, "--scale", 2)
    assert (result.code, made.read_bytes()) == (0, b"mine")
    assert "skipped" in result.err
    run("upscale", photo, "-b", tiny_bundle, "--scale", 2, "--overwrite")
    assert made.read_bytes() != b"mine"


def test_bad_usage_is_refused_where_the_output_exists_too(run: Run, photo: Path, tiny_bundle: Path) -> None:
    photo.with_name("photo_x2.png").write_bytes(b"there")
    result = run("upscale", photo, "-b", tiny_bundle, "--scale", "2", "--quality", "200")
    assert (result.code, "quality 200: expected 1 to 100" in result.err) == (2, True)


def test_a_folder_keeps_its_structure_and_goes_on_past_failures(
    run: Run, photo: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (photo.parent / "deep").mkdir()
    (photo.parent / "deep" / "two.bmp").write_bytes(b"no picture at all")
    Image.new("L", (5, 6), 7).save(photo.parent / "deep" / "three.jpg")
    (photo.parent / "notes.txt").write_text("not a picture")
    result = run("upscale", photo.parent, "-b", tiny_bundle, "--scale", 2, "-o", tmp_path / "out", "--json")
    assert result.code == 1
    report = json.loads(result.out)
    assert (report["done"], report["failed"], report["skipped"]) == (2, 1, 0)
    with Image.open(tmp_path / "out" / "deep" / "three.jpg") as picture:
        assert (picture.size, picture.mode) == ((10, 12), "L")
    assert "two.bmp" in result.err
    again = json.loads(
        run("upscale", photo.parent, "-b", tiny_bundle, "--scale", 2, "-o", tmp_path / "out", "--json").out
    )
    assert (again["done"], again["failed"], again["skipped"]) == (0, 1, 2)


def test_a_second_run_over_a_folder_does_not_enlarge_what_the_first_one_made(
    run: Run, photo: Path, tiny_bundle: Path
) -> None:
    for _ in range(2):
        assert run("upscale", photo.parent, "-b", tiny_bundle, "--scale", 2).code == 0
    assert sorted(path.name for path in photo.parent.iterdir()) == ["photo of été.png", "photo of été_x2.png"]


def test_json_reports_every_file(run: Run, photo: Path, tiny_bundle: Path) -> None:
    report = json.loads(run("upscale", photo, "-b", tiny_bundle, "--scale", 2, "--json", "--threads", 1).out)
    assert report["bundle"] == "tiny"
    assert report["threads"] == 1
    (entry,) = report["files"]
    assert entry["status"] == "done"
    assert (entry["source_size"], entry["target_size"]) == ([14, 10], [28, 20])
    assert entry["megapixels_per_second"] > 0


def test_a_dry_run_plans_and_writes_nothing(run: Run, photo: Path, tiny_bundle: Path) -> None:
    before = sorted(photo.parent.iterdir())
    report = json.loads(run("upscale", photo, "-b", tiny_bundle, "--max-side", 700, "--dry-run", "--json").out)
    (entry,) = report["files"]
    assert (entry["status"], entry["target_size"]) == ("planned", [700, 500])
    assert entry["seconds"] > 0
    assert entry["memory_mib"] > 0
    assert entry["decoder_calls"] >= 3 * 700 * 500 / 2048
    assert sorted(photo.parent.iterdir()) == before
    assert "28x20" in run("upscale", photo, "-b", tiny_bundle, "--scale", 2, "--dry-run").out


def test_a_dry_run_reports_what_would_fail(run: Run, photo: Path, tiny_bundle: Path) -> None:
    result = run("upscale", photo, "-b", tiny_bundle, "--size", "5x5", "--dry-run")
    assert (result.code, "this model only upscales" in result.err) == (2, True)


def test_alpha_depth_orientation_and_profile_survive(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    rgba = np.zeros((8, 12, 4), np.uint8)
    rgba[:, :6] = (200, 30, 10, 255)
    picture = Image.fromarray(rgba)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif, icc_profile=b"profile of tests, kept as bytes")
    run("upscale", tmp_path / "a.png", "-b", tiny_bundle, "--scale", 2, "-o", tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as made:
        assert (made.mode, made.size) == ("RGBA", (16, 24)), "EXIF orientation 6 stands upright"
        assert made.getexif().get(0x0112, 1) == 1
        assert made.info["icc_profile"] == b"profile of tests, kept as bytes"


def test_what_a_format_cannot_hold_is_reported(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (6, 6), (1, 2, 3, 100)).save(tmp_path / "a.png")
    result = run("upscale", tmp_path / "a.png", "-b", tiny_bundle, "--scale", 2, "--format", "jpg")
    assert result.code == 0
    assert "note:" in result.err
    assert "alpha" in result.err.lower()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--scale", "0"], 2, "scale 0: expected a finite number of at least 1"),
        (["--scale", "nan"], 2, "scale nan: expected"),
        (["--size", "12"], 2, "expected WIDTHxHEIGHT"),
        ([], 2, "exactly one of --scale"),
        (["--scale", "2", "--quality", "0"], 2, "quality 0: expected 1 to 100"),
        (["--scale", "2", "--quality", "80"], 2, "--quality: for .jpg, .jpeg, .webp, and no output is one"),
        (["--scale", "2", "--lossless"], 2, "--lossless: for WebP, and no output is one"),
        (["--scale", "2", "--codec", "libx264", "--crf", "5"], 2, "--codec, --crf: for videos, and the input is none"),
        (["--scale", "2", "--frames", "1:2"], 2, "--frames: for videos"),
        (["--scale", "2", "--from", "1"], 2, "--from: for videos"),
        (["--scale", "2", "--on-error", "stop"], 2, "--on-error: for videos"),
        (["--scale", "2", "--segment-frames", "48"], 2, "--segment-frames: for videos"),
        (["--scale", "2", "--restart"], 2, "--restart: for videos"),
        (["--size", "5x5"], 2, "this model only upscales"),
        (["--scale", "1e6"], 2, "over the limit of 1,073,741,824"),
        (["--scale", "2", "--memory", "0"], 2, "memory budget of 0 MiB is too small"),
        (["--scale", "2", "--threads", "-1"], 2, "threads is -1"),
        (["--scale", "2", "--provider", "cuda"], 1, "CUDAExecutionProvider is not in this ONNX Runtime"),
        (["--scale", "2", "--provider", "bogus"], 1, "bogus is not in this ONNX Runtime"),
        (["--scale", "2", "-b", "nowhere"], 1, "no such folder, and no model of that name"),
        (["--scale", "2", "--max-pixels", "100"], 1, "--max-pixels"),
        (["--scale", "2", "--format", "gif"], 2, "--format gif"),
        (["--scale", "2", "--no-such-option"], 2, "No such option"),
    ],
)
def test_bad_usage_is_reported_in_a_sentence(
    run: Run, photo: Path, tiny_bundle: Path, words: list[str], code: int, message: str
) -> None:
    if "-b" not in words:
        words = [*words, "-b", str(tiny_bundle)]
    result = run("upscale", photo, *words)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty (0 bytes)"), (b"hello", "not"), (None, "does not exist"), ("truncated", "truncated")],
)
def test_a_bad_picture_is_reported_in_a_sentence(
    run: Run, photo: Path, tiny_bundle: Path, content: bytes | str | None, message: str
) -> None:
    path = photo.with_name("bad.png")
    if content is not None:
        path.write_bytes(photo.read_bytes()[:200] if content == "truncated" else content)  # type: ignore[arg-type]
    result = run("upscale", path, "-b", tiny_bundle, "--scale", 2)
    assert result.code == 1
    assert message in result.err.lower()
    assert "bad.png" in result.err
    assert "Traceback" not in result.err


def test_a_folder_without_pictures_is_reported(run: Run, tmp_path: Path, tiny_bundle: Path) -> None:
    result = run("upscale", tmp_path, "-b", tiny_bundle, "--scale", 2)
    assert (result.code, "no pictures in this folder" in result.err) == (1, True)


def test_an_output_that_would_replace_an_input_is_refused(run: Run, photo: Path, tiny_bundle: Path) -> None:
    before = photo.read_bytes()
    result = run("upscale", photo, "-b", tiny_bundle, "--scale", 2, "-o", photo.parent, "--overwrite")
    assert (result.code, "would replace the input" in result.err) == (2, True)
    assert photo.read_bytes() == before


def test_two_inputs_for_one_output_are_refused(run: Run, photo: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / photo.name
    other.write_bytes(photo.read_bytes())
    result = run("upscale", photo, other, "-b", tiny_bundle, "--scale", 2, "-o", tmp_path / "out")
    assert (result.code, "would both become" in result.err) == (2, True)


@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system"])
def test_an_unwritable_target_leaves_nothing_behind(
    run: Run, photo: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    code = {"No space left on device": 28, "Read-only file system": 30}[reason]

    def fail(_: int) -> None:
        raise OSError(code, reason)

    monkeypatch.setattr(os, "fsync", fail)
    result = run("upscale", photo, "-b", tiny_bundle, "--scale", 2, "-o", tmp_path / "out" / "o.png")
    assert result.code == 1
    assert "disk is full" in result.err if code == 28 else "read-only" in result.err
    assert list((tmp_path / "out").iterdir()) == []


def test_ctrl_c_leaves_no_half_written_file(photo: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    words = ["upscale", str(photo), "-b", str(tiny_bundle), "--scale", "150", "-o", str(tmp_path / "out" / "o.png")]
    process = subprocess.Popen(
        [sys.executable, "-m", "hiif_deploy.cli", *words],
        stderr=subprocess.PIPE, text=True, cwd=Path(cli.__file__).parents[2],
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; no half-written file was left" in error
    assert "Traceback" not in error
    assert list((tmp_path / "out").iterdir()) == []


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(BundleError):
        cli.main(["info", "nowhere", "--debug"])


def test_an_unexpected_error_asks_for_debug(run: Run, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("hiif_deploy.bundle.loader.open_bundle", fail)
    result = run("info", tiny_bundle)
    assert (result.code, "unexpected RuntimeError: surprise; add --debug" in result.err) == (1, True)


def test_info_reports_what_a_bundle_holds(run: Run, tiny_bundle: Path) -> None:
    facts = json.loads(run("info", tiny_bundle, "--json").out)
    assert facts["decoder"]["bits"] == "exact"
    assert facts["parity"]["max_error"] <= 1e-4
    assert "decoder.onnx" in run("info", tiny_bundle).out


def test_doctor_reports_what_is_missing_and_how_to_add_it(run: Run) -> None:
    result = run("doctor", "--json")
    assert result.code == 0
    found = {finding["name"]: finding for finding in json.loads(result.out)}
    assert found["provider cpu"]["status"] == "ok"
    assert found["provider cuda"]["status"] == "absent"
    assert found["triton"]["status"] in ("ok", "absent")
    assert "pip install onnxruntime-gpu" in found["provider cuda"]["advice"]
    assert "onnxruntime-gpu" in run("doctor").out


def test_verify_repeats_the_stored_comparison(run: Run, tiny_bundle: Path) -> None:
    result = run("verify", tiny_bundle)
    assert (result.code, "within 1.0e-04" in result.err) == (0, True)
    result = run("verify", tiny_bundle, "--tolerance", "1e-12")
    assert (result.code, "the colours differ from PyTorch" in result.err) == (1, True)


def test_demo_writes_pictures_and_a_comparison(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    result = run("demo", "-b", tiny_bundle, "-o", tmp_path / "demo", "--scale", "1.5")
    assert result.code == 0
    assert "megapixels/s" in result.out
    names = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert names == ["astronaut_x1.5.png", "chelsea_x1.5.png", "coffee_x1.5.png", "comparison.png"]


def test_the_version_and_the_help_are_shown(run: Run) -> None:
    assert run("--version").out.startswith("hiif-deploy ")
    assert "upscale" in run("--help").out
    assert "--max-side" in run("upscale", "--help").out
