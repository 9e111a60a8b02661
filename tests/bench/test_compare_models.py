"""The comparison of models, with bicubic and one shipped model on one picture of Set5."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/compare_models.py"


def compare(path: Path, shared: Path, *words: str) -> str:
    command = [sys.executable, str(SCRIPT), "--json", str(path), "--data", str(shared / "data/Set5")]
    command += ["--scales", "4", "--limit", "1", "--threads", "1", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def rows(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {(row["model"], row["input"]): row for row in found["rows"]}


def test_a_second_run_measures_only_what_is_missing(tmp_path: Path, shared: Path) -> None:
    path = tmp_path / "models.json"
    compare(path, shared, "--models", "bicubic,hiif-compact", "--rounds", "0")
    first = rows(path)
    assert first["hiif-compact", "clean"]["psnr"] > first["bicubic", "clean"]["psnr"] + 1
    assert all("seconds" not in row for row in first.values())

    known = json.loads(path.read_text(encoding="utf-8"))
    known["rows"][0]["psnr"] = 99.0
    path.write_text(json.dumps(known), encoding="utf-8")
    printed = compare(path, shared, "--models", "bicubic", "--rounds", "0", "--inputs", "clean,jpeg40,noise15")
    second = rows(path)
    assert second["bicubic", "clean"]["psnr"] == 99.0
    assert second["bicubic", "jpeg40"]["psnr"] < first["bicubic", "clean"]["psnr"]
    assert "| bicubic | 99.00 |" in printed
    assert second["hiif-compact", "clean"] == first["hiif-compact", "clean"]


def test_rounds_add_times_to_measured_rows(tmp_path: Path, shared: Path) -> None:
    path = tmp_path / "models.json"
    for rounds in ("0", "2"):
        compare(path, shared, "--models", "bicubic", "--rounds", rounds)
    row = rows(path)["bicubic", "clean"]
    assert len(row["seconds"]) == len(row["cpu_seconds"]) == 2
    assert row["threads"] == 1


def test_a_model_without_its_files_is_skipped_with_the_reason(tmp_path: Path, shared: Path) -> None:
    path = tmp_path / "models.json"
    compare(path, shared, "--models", "bicubic,fsrcnn,waifu2x-photo", "--rounds", "0")
    skipped = json.loads(path.read_text(encoding="utf-8"))["skipped"]
    assert "--fsrcnn" in skipped["fsrcnn ×4"]
    assert skipped["waifu2x-photo ×4"] == "no weights for ×4, only for ×2"
    assert list(rows(path)) == [("bicubic", "clean")]


def test_an_unknown_model_is_refused(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        compare(tmp_path / "models.json", shared, "--models", "bicubik")
    assert "--models: unknown: bicubik; known: bicubic, fsrcnn" in error.value.stderr
