"""The script for the first minutes on a GPU, on the processor: a step runs or says why not, whatever the others do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed")
SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu_first_contact.py"


def found(tmp_path: Path, *words: str) -> dict[str, Any]:
    path = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--source", "5x4", "--json", str(path), *words]
    subprocess.run(command, check=True, capture_output=True)
    rows: dict[str, Any] = json.loads(path.read_text())
    return rows


def test_steps_write_what_they_measure(tmp_path: Path) -> None:
    rows = found(tmp_path, "--steps", "gemm", "kernels_right", "end_to_end")
    assert rows["gemm"]["up_gb_s"] > 0
    (decoder,) = (row for name, row in rows["kernels_right"].items() if name.startswith("decoder"))
    assert decoder["colour"] > 40
    rates = {key: row for key, row in rows["end_to_end"].items() if key != "wall_s"}
    assert set(rates) == {f"{name} {way}" for name in ("hiif-compact", "hiif-video") for way in ("exact", "sampled")}
    assert all(row["psnr_db"] > 60 and row["engine"].find("fused kernels") > 0 for row in rates.values())


def test_a_failed_step_is_reported_and_the_next_one_runs(tmp_path: Path) -> None:
    rows = found(tmp_path, "--bundle", "no-such-bundle", "--steps", "kernels_right", "baselines", "versions")
    assert "no-such-bundle" in rows["kernels_right"]["log"]
    assert rows["baselines"]["failed"] == "no --checkpoint"
    assert rows["versions"]["torch"]
