"""Engines are measured in turns, and each one's answer is held to fp32's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hiif_deploy import EngineOptions, cli
from hiif_deploy.bench import run_bench
from hiif_deploy.bundle import open_bundle


def test_every_engine_is_timed_in_every_round_and_compared(half_bundle: Path) -> None:
    engines = [EngineOptions(threads=1), EngineOptions(threads=1, precision="fp16")]
    done: list[int] = []
    results = run_bench(open_bundle(half_bundle), engines, (12, 14), 2.5, 3, done.append)
    assert [result.variant for result in results] == [
        "ONNX Runtime, cpu, fp32", "ONNX Runtime, cpu, fp16",
    ]  # fmt: skip
    assert sum(done) == 6
    assert results[0].ratio == 1
    assert results[0].psnr_db > 140 > results[1].psnr_db > 60
    for result in results:
        assert result.quartiles_s[0] <= result.median_s <= result.quartiles_s[1]
        assert set(result.stages_s) == {"encode", "statistics", "colours"}
        assert min(result.stages_s.values()) > 0


def test_the_command_prints_a_table_and_writes_json(
    half_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(half_bundle), "--input", "14x12", "--rounds", "2", "-q", "--json", str(tmp_path / "b.json")]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert not stop.value.code
    assert "14x12 ×2" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "b.json").read_text())["results"]
    assert result["variant"] == "ONNX Runtime, cpu, fp32"
    assert result["source"] == [12, 14]


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--rounds", "0"), "--rounds 0"), (("--input", "7"), "--input '7'"), (("--engine", "warp"), "engine is 'warp'")],
)
def test_wrong_usage_exits_2(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
