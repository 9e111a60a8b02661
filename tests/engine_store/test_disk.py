"""A disk that is full, read-only or interrupted: the error names the file, and the store stays whole."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError
from sample_engine import HERE, ONNX, Builds, flip, make_identity, names, not_needed, start_python, stored


@pytest.mark.parametrize("call", [1, 2], ids=["engine", "sidecar"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_error_that_says_how_much_is_needed_and_leaves_nothing(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch, number: int, call: int
) -> None:
    calls = []

    def fsync(_: int) -> None:
        calls.append(1)
        if len(calls) == call:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EngineError) as caught:
        store.get_or_build(make_identity(), Builds())
    size = "5,000" if call == 1 else r"[\d,]+"
    suffix = ("engine", "json")[call - 1]
    assert re.search(rf"\.{suffix}: no room for {size} bytes \({os.strerror(number)}; [\d,]+ bytes", str(caught.value))
    assert "--store" in str(caught.value)
    assert names(store) == []
    monkeypatch.undo()
    stored(store)


LIMITED = """
import resource, sys
from hiif_deploy.engine_store import EngineStore
from hiif_deploy.errors import EngineError
from sample_engine import make_identity, plan_bytes
store = EngineStore.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    store.get_or_build(make_identity(), lambda: (plan_bytes(100_000), {}))
except EngineError as error:
    print(error)
store.get_or_build(make_identity(graph="decoder"), lambda: (plan_bytes(30_000), {}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_file_that_really_does_not_fit_leaves_nothing(store: EngineStore) -> None:
    process = start_python(LIMITED, store.root)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "no room for 100,000 bytes (File too large" in out
    assert [path.split("-")[2] for path in names(store)] == ["decoder", "decoder"]


def test_any_other_failure_to_write_is_an_error(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EngineError, match=r"\.engine: cannot be written \(Input/output error\)"):
        stored(store)
    assert names(store) == []


@pytest.mark.parametrize("call", [1, 2], ids=["engine", "sidecar"])
def test_an_interrupt_while_writing_leaves_nothing(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = []

    def fsync(_: int) -> None:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        stored(store)
    assert names(store) == []


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = stored(store)

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EngineError, match=r"\.json: no room for"):
        store.set_report(engine, {"psnr": 1.0})
    assert store.entries() == [engine]
    assert len(names(store)) == 2


def test_a_lock_that_cannot_be_taken_is_an_error(store: EngineStore) -> None:
    (store.root / "locks").rmdir()
    (store.root / "locks").write_text("a file in place of the folder")
    with pytest.raises(EngineError, match=r"\.lock: cannot be locked \(.*\); is the folder writable"):
        stored(store)


def read_only_store(store: EngineStore, monkeypatch: pytest.MonkeyPatch, temporary: Path) -> EngineStore:
    """`store` opened again, on a file system that was mounted read-only."""
    import tempfile

    real = tempfile.TemporaryFile

    def refuse(**options: Any) -> Any:
        if store.root in Path(options["dir"]).parents:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(**options)

    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    return EngineStore.open(store.root)


def test_engines_of_a_store_that_cannot_be_written_are_used_and_new_ones_kept_elsewhere(
    store: EngineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    engine = stored(store)
    (tmp_path / "tmp").mkdir()
    opened = read_only_store(store, monkeypatch, tmp_path / "tmp")
    assert log.messages == [
        f"{store.root}: the store cannot be written (Read-only file system); engines are kept in {opened.root} instead"
    ]
    assert opened.root.parent == tmp_path / "tmp"
    assert opened.get_or_build(make_identity(), not_needed) == engine
    assert opened.find(HERE, "hiif-compact", "encoder", "fp16", ONNX) == [engine]
    other = stored(opened, graph="decoder")
    assert other.path.parent == opened.root / "engines"
    assert len(opened.entries()) == 2
    assert [removal.path for removal in opened.prune(everything=True)] == [other.path]
    assert store.entries() == [engine]


def test_a_damaged_engine_in_a_store_that_cannot_be_written_is_named_and_rebuilt_elsewhere(
    store: EngineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    engine = stored(store)
    flip(engine.path, 1024)
    opened = read_only_store(store, monkeypatch, tmp_path)
    log.clear()
    rebuilt = opened.get_or_build(make_identity(), Builds())
    assert rebuilt.path.parent == opened.root / "engines"
    assert [line.startswith(f"{engine.path}: sha256 is ") for line in log.messages] == [True]
    assert opened.get_or_build(make_identity(), not_needed) == rebuilt
