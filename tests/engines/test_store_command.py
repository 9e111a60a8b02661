"""`engines list` and `engines prune` as a user runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.cli import app as cli
from hiif_deploy.engine_store.entry import StoredEngine
from hiif_deploy.engine_store.store import EngineStore
from hiif_engines.store_command import size_text
from sample_engine import make_identity, plan_bytes

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide terminal, and a default store of this test's own."""
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path / "store"))


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore.open(tmp_path / "store")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    return int(stop.value.code or 0)


def stored(store: EngineStore, report: dict[str, Any] | None = None, **changes: Any) -> StoredEngine:
    figures = {"psnr_db": 71.25, "max_error": 0.00123456, "note": "text"} if report is None else report
    return store.get_or_build(make_identity(**changes), lambda: (plan_bytes(3 << 20), figures))


def lines(text: str) -> list[list[str]]:
    """Cells of a table's rows."""
    rows = [re.split("[│┃]", line) for line in text.splitlines() if "│" in line or "┃" in line]
    return [[cell.strip() for cell in row[1:-1]] for row in rows]


def test_an_empty_store_says_how_to_fill_it(store: EngineStore, capsys: Output) -> None:
    assert run("engines", "list") == 0
    assert capsys.readouterr().out == f"{store.root}: no engines; build some with: hiif-deploy build BUNDLE\n"


def test_the_list_shows_what_each_engine_is(store: EngineStore, capsys: Output) -> None:
    stored(store)
    damaged = stored(store, graph="decoder", bundle="[red]mine")
    damaged.path.write_bytes(b"short")
    unreadable = stored(store, graph="maps")
    unreadable.path.with_suffix(".json").write_text("{")
    assert run("engines", "list") == 0
    said = capsys.readouterr()
    assert str(store.root) in said.out
    gpu = "NVIDIA GeForce RTX 4090 (8.9)"
    rows = lines(said.out)
    assert rows[0] == ["bundle", "graph", "precision", "built by", "GPU", "size", "state", "verified"]
    assert sorted(rows[1:]) == sorted(
        [
            ["[red]mine", "decoder", "fp16", "TensorRT 10.13.3.9", gpu, "", "corrupt", ""],
            ["hiif-compact", "encoder", "fp16", "TensorRT 10.13.3.9", gpu, "3.0 MiB", "ok",
             "psnr_db 71.25, max_error 0.001235"],
            [unreadable.path.stem, "", "", "", "", "", "corrupt", ""],
        ]
    )  # fmt: skip
    assert f"{damaged.path}: 5 bytes instead of 3,145,728: truncated or changed\n" in said.err
    assert f"{unreadable.path}: {unreadable.path.stem}.json: damaged (" in said.err


def test_an_engine_without_figures_is_not_called_verified(store: EngineStore, capsys: Output) -> None:
    stored(store, report={"note": "built only"})
    assert run("engines", "list") == 0
    assert lines(capsys.readouterr().out)[1][-1] == "no"


def test_the_list_as_json_holds_everything(store: EngineStore, capsys: Output) -> None:
    engine = stored(store)
    damaged = stored(store, graph="decoder")
    damaged.path.unlink()
    assert run("engines", "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["store"] == str(store.root)
    broken, whole = found["engines"]
    assert (whole["file"], whole["state"], whole["key"]) == (str(engine.path), "ok", engine.identity.key)
    assert whole["identity"]["profiles"] == {"picture": [[1, 3, 32, 32], [1, 3, 360, 640], [1, 3, 1080, 1920]]}
    assert whole["report"]["psnr_db"] == 71.25
    assert (broken["state"], broken["reason"]) == ("corrupt", "a sidecar without an engine")
    assert broken["identity"]["graph"] == "decoder"


def test_another_store_is_shown_with_store(tmp_path: Path, store: EngineStore, capsys: Output) -> None:
    stored(store)
    assert run("engines", "list", "--store", tmp_path / "other") == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'other'}: no engines")


def test_a_store_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("a file")
    assert run("engines", "list", "--store", tmp_path / "file") == 0
    assert f"{tmp_path / 'file'}: the store cannot be written (File exists)" in caplog.text


def test_a_report_cannot_steer_the_terminal(store: EngineStore, capsys: Output) -> None:
    stored(store, report={"\x1b[2J": 1.5, "[bold]x": "\x1b]0;title\x07", "big": 2**53})
    assert run("engines", "list") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "[2J 1.5, big 9.007e+15" in said


def test_prune_says_what_it_removes(store: EngineStore, capsys: Output) -> None:
    engine = stored(store)
    damaged = stored(store, graph="decoder")
    damaged.path.write_bytes(b"short")
    assert run("engines", "prune", "--dry-run") == 0
    planned = capsys.readouterr().out
    assert re.search(r"decoder-fp16-\w+\.engine: would be removed \(\d\.\d KiB\): 5 bytes instead of", planned)
    assert f"{store.root}: 1 would be removed, " in planned
    assert len(store.entries()) == 2
    assert run("engines", "prune") == 0
    assert capsys.readouterr().out == planned.replace("would be removed", "removed")
    assert store.entries() == [engine]


def test_prune_all_removes_everything(store: EngineStore, capsys: Output) -> None:
    stored(store)
    assert run("engines", "prune") == 0
    assert f"{store.root}: 0 removed, 0.0 KiB" in capsys.readouterr().out
    assert run("engines", "prune", "--all") == 0
    assert f"{store.root}: 1 removed, 3.0 MiB" in capsys.readouterr().out
    assert store.entries() == []


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.0 KiB"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5120.0 MiB")]
)
def test_sizes_are_reported_in_binary_units(size: int, text: str) -> None:
    assert size_text(size) == text
