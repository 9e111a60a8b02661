"""Engines are built once, checked whenever they are read, and whatever is wrong with one is named and healed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.engine_store.entry import RefusedEngine, StoredEngine
from hiif_deploy.engine_store.identity import EngineIdentity
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError
from sample_engine import HERE, ONNX, make_identity, plan_bytes

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits")

Builder = Callable[[], tuple[bytes, Mapping[str, Any]]]


class Builds:
    """A builder that counts; its bytes tell how often it was asked before."""

    def __init__(self, size: int = 5000) -> None:
        self.count = 0
        self.size = size

    def __call__(self) -> tuple[bytes, Mapping[str, Any]]:
        self.count += 1
        return plan_bytes(self.size, seed=self.count), {"psnr": 70.5}


def not_needed() -> tuple[bytes, Mapping[str, Any]]:
    raise AssertionError("built although an engine is there")


def failing(error: BaseException) -> Builder:
    def build() -> tuple[bytes, Mapping[str, Any]]:
        raise error

    return build


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> EngineStore:
    opened = EngineStore.open(tmp_path / "store", said.append)
    assert said == []
    return opened


def names(store: EngineStore) -> list[str]:
    """Files among the engines."""
    return sorted(path.name for path in (store.root / "engines").iterdir())


def stored(store: EngineStore, **changes: Any) -> StoredEngine:
    return store.get_or_build(make_identity(**changes), Builds())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def run_python(code: str, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
        timeout=120,
        check=check,
    )


# What is built is there afterwards.


def test_an_engine_is_built_once_and_its_bytes_come_back(store: EngineStore) -> None:
    first = store.get_or_build(make_identity(), Builds())
    second = store.get_or_build(make_identity(), not_needed)
    assert first == second
    assert second.load() == plan_bytes(5000, seed=1)
    assert second.sidecar.report == {"psnr": 70.5}
    assert second.sidecar.size == 5000
    assert second.sidecar.sha256 == hashlib.sha256(second.load()).hexdigest()


def test_its_file_is_named_for_people_and_by_its_key(store: EngineStore) -> None:
    engine = stored(store)
    stem = f"hiif-compact-encoder-fp16-{make_identity().key[:16]}"
    assert names(store) == [f"{stem}.engine", f"{stem}.json"]
    assert engine.path == store.path(make_identity())


@pytest.mark.parametrize(
    ("bundle", "word"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("/root/x", "root_x"),
        ("C:\\Windows", "C_Windows"),
        ("..", "bundle"),
        ("", "bundle"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("名前", "bundle"),
        ("a b*?", "a_b"),
        ("x" * 200, "x" * 60),
    ],
)
def test_a_bundles_name_cannot_leave_the_store(store: EngineStore, tmp_path: Path, bundle: str, word: str) -> None:
    engine = stored(store, bundle=bundle)
    assert engine.path.parent == store.root / "engines"
    assert engine.path.name.startswith(f"{word}-encoder-fp16-")
    assert store.entries() == [engine]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_engines_of_different_identities_lie_side_by_side(store: EngineStore) -> None:
    for changes in ({}, {"precision": "fp32"}, {"graph": "decoder"}, {"flags": {}}, {"driver": "13.1"}):
        stored(store, **changes)
    assert len(store.entries()) == 5
    assert all(isinstance(entry, StoredEngine) for entry in store.entries())


def test_shapes_given_as_lists_are_the_same_engine(store: EngineStore) -> None:
    stored(store)
    profiles: Any = {name: [list(shape) for shape in shapes] for name, shapes in make_identity().profiles.items()}
    store.get_or_build(make_identity(profiles=profiles), not_needed)


def test_a_builder_that_gives_nothing_is_an_error(store: EngineStore) -> None:
    with pytest.raises(EngineError, match="the builder gave no bytes"):
        store.get_or_build(make_identity(), lambda: (b"", {}))
    assert names(store) == []


@pytest.mark.parametrize("error", [EngineError("no"), RuntimeError("crash"), KeyboardInterrupt(), SystemExit(3)])
def test_a_build_that_fails_leaves_nothing_and_the_next_one_succeeds(store: EngineStore, error: BaseException) -> None:
    with pytest.raises(type(error)):
        store.get_or_build(make_identity(), failing(error))
    assert names(store) == []
    assert stored(store).load() == plan_bytes(5000, seed=1)


# What is corrupt is named and built again.


def test_corruption_at_every_kilobyte_is_named_and_rebuilt(store: EngineStore) -> None:
    size = 64 * 1024 + 7
    builds = Builds(size)
    path = store.get_or_build(make_identity(), builds).path
    places = [*range(0, size, 1024), size - 1]
    assert len(places) == 66
    for at in places:
        for damage in ("truncate", "flip"):
            before = builds.count
            if damage == "flip":
                flip(path, at)
                expected = re.escape(f"{path}: sha256 is ")
            else:
                os.truncate(path, at)
                expected = re.escape(f"{path}: {at:,} bytes instead of {size:,}: truncated or changed; it is built")
            found = store.find(HERE, ONNX, "encoder", "fp16")
            assert (found.engines, [entry.state for entry in found.refused]) == ((), ["corrupt"])
            said: list[str] = []
            engine = store.get_or_build(make_identity(), builds, said.append)
            assert len(said) == 1
            assert re.match(expected, said[0])
            assert builds.count == before + 1
            assert engine.load() == plan_bytes(size, seed=builds.count)
    assert len(names(store)) == 2


def test_a_sidecar_damaged_at_every_64th_byte_is_named_and_rebuilt(store: EngineStore, said: list[str]) -> None:
    path = stored(store).path
    sidecar = path.with_suffix(".json")
    whole = sidecar.read_bytes()
    for mask in (0xFF, 0x01, 0x20):
        for at in range(0, len(whole), 64):
            data = bytearray(whole)
            data[at] ^= mask
            sidecar.write_bytes(data)
            found = store.find(HERE, ONNX, "encoder", "fp16")
            assert (found.engines, [entry.state for entry in found.refused]) == ((), ["corrupt"])
            assert found.refused[0].reason.isprintable()
            assert len(store.entries()) == 1
    sidecar.write_bytes(whole[:64])
    store.get_or_build(make_identity(), Builds(), said.append)
    assert [line.endswith("it is built again") for line in said] == [True]


@pytest.mark.parametrize("at", range(0, 1400, 64))
def test_a_truncated_sidecar_is_corrupt(store: EngineStore, at: int) -> None:
    sidecar = stored(store).path.with_suffix(".json")
    data = sidecar.read_bytes()
    assert 900 < len(data) < 1400
    sidecar.write_bytes(data[: min(at, len(data) - 1)])
    (entry,) = store.entries()
    assert isinstance(entry, RefusedEngine)
    assert f"{sidecar.name}: damaged" in entry.reason


def test_a_changed_figure_in_a_report_is_corrupt(store: EngineStore) -> None:
    sidecar = stored(store).path.with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace("70.5", "99.5"))
    (entry,) = store.entries()
    assert isinstance(entry, RefusedEngine)
    assert "its contents do not have the checksum that stands in it" in entry.reason


def test_a_sidecar_without_an_engine_is_named_and_rebuilt(store: EngineStore, said: list[str]) -> None:
    path = stored(store).path
    path.unlink()
    store.get_or_build(make_identity(), Builds(), said.append)
    assert said == [f"{path}: a sidecar without an engine; it is built again"]


def test_an_engine_without_a_sidecar_is_named_and_rebuilt(store: EngineStore, said: list[str]) -> None:
    path = stored(store).path
    path.with_suffix(".json").unlink()
    store.get_or_build(make_identity(), Builds(), said.append)
    assert said == [f"{path}: an engine without a sidecar: writing it was cut off; it is built again"]


def test_an_engine_with_bytes_appended_is_corrupt(store: EngineStore) -> None:
    engine = stored(store)
    with engine.path.open("ab") as file:
        file.write(b"x")
    assert engine.damage() == "5,001 bytes instead of 5,000: truncated or changed"
    with pytest.raises(EngineError, match="5,001 bytes instead of 5,000: truncated or changed; it is not run"):
        engine.load()


def test_an_engine_that_vanished_is_an_error_that_names_it(store: EngineStore) -> None:
    engine = stored(store)
    engine.path.unlink()
    with pytest.raises(EngineError, match=r"\.engine: cannot be read"):
        engine.load()
    assert str(engine.damage()).startswith("cannot be read (")


def test_a_renamed_engine_is_corrupt(store: EngineStore) -> None:
    path = stored(store).path
    other = store.path(make_identity(graph="decoder"))
    path.rename(other)
    path.with_suffix(".json").rename(other.with_suffix(".json"))
    (entry,) = store.entries()
    assert isinstance(entry, RefusedEngine)
    assert entry.reason == f"the sidecar is that of {path.stem}: a file was renamed or copied"
    store.get_or_build(make_identity(graph="decoder"), Builds(), lambda _: None)
    assert isinstance(store.entries()[0], StoredEngine)


def test_the_sidecar_of_one_engine_does_not_vouch_for_another(store: EngineStore) -> None:
    one, two = stored(store), stored(store, graph="decoder")
    one.path.write_bytes(plan_bytes(5000, seed=99))
    two.path.with_suffix(".json").write_bytes(one.path.with_suffix(".json").read_bytes())
    assert [isinstance(entry, RefusedEngine) for entry in store.entries()] == [True, True]


def test_files_of_other_names_are_none_of_the_stores_business(store: EngineStore) -> None:
    strangers = ["notes.json", "my.engine", "a-b-fp16-0123.engine", "a-b-int8-0123456789abcdef.engine"]
    for name in strangers:
        (store.root / "engines" / name).write_text("mine")
    assert store.entries() == []
    assert store.prune(everything=True) == []
    assert names(store) == sorted(strangers)


# Which engines fit.


def test_the_newest_fitting_engine_comes_first(store: EngineStore) -> None:
    made = [stored(store, flags={"optimization_level": level}) for level in (1, 5, 3)]
    found = store.find(HERE, ONNX, "encoder", "fp16")
    assert found.engines == (made[2], made[1], made[0])
    assert found.refused == ()


def test_engines_of_other_graphs_and_precisions_are_not_asked_for(store: EngineStore) -> None:
    stored(store, graph="decoder")
    stored(store, precision="fp32")
    found = store.find(HERE, ONNX, "encoder", "fp16")
    assert (found.engines, found.refused) == ((), ())


def test_an_engine_of_another_onnx_file_is_stale(store: EngineStore) -> None:
    stored(store, onnx_sha256="cd" * 32)
    (refused,) = store.find(HERE, ONNX, "encoder", "fp16").refused
    assert refused.state == "stale"
    assert refused.reason == "built from another ONNX file (cdcdcdcdcdcd…; this one is abababababab…)"
    assert store.find(HERE, ONNX, "encoder", "fp16", bundle="hiif-compact").refused == (refused,)
    assert store.find(HERE, ONNX, "encoder", "fp16", bundle="other").refused == ()


def test_a_bundle_of_another_name_with_the_same_onnx_file_shares_the_engine(store: EngineStore) -> None:
    engine = stored(store)
    assert store.find(HERE, ONNX, "encoder", "fp16", bundle="other").engines == (engine,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"library_version": "10.9.0.34"}, "built by TensorRT 10.9.0.34 for NVIDIA GeForce RTX 4090 (8.9)"),
        ({"gpu": "NVIDIA L4"}, "here is TensorRT 10.13.3.9 for NVIDIA GeForce RTX 4090 (8.9)"),
        ({"library": "tensorrt-rtx"}, "the libraries do not run each other's engines"),
        ({"driver": "12.8"}, "it was tuned under another driver"),
    ],
)
def test_an_engine_of_another_machine_or_version_is_foreign_and_told_in_words(
    store: EngineStore, changes: dict[str, Any], words: str
) -> None:
    foreign = stored(store, **changes)
    own = stored(store)
    found = store.find(HERE, ONNX, "encoder", "fp16")
    assert found.engines == (own,)
    (refused,) = found.refused
    assert (refused.state, refused.path) == ("foreign", foreign.path)
    assert words in refused.reason


def test_a_portable_engine_of_an_older_version_fits(store: EngineStore) -> None:
    flags = {"version_compatible": True, "hardware_compatibility": "ampere_plus"}
    engine = stored(store, flags=flags, library_version="10.9.0.34", gpu="NVIDIA A100", capability="8.0")
    assert store.find(HERE, ONNX, "encoder", "fp16").engines == (engine,)


def test_an_unreadable_sidecar_is_told_to_whom_its_file_name_concerns(store: EngineStore) -> None:
    path = stored(store, graph="statistics-0").path
    path.with_suffix(".json").write_text("{")
    assert [entry.state for entry in store.find(HERE, ONNX, "statistics-0", "fp16").refused] == ["corrupt"]
    assert len(store.find(HERE, ONNX, "statistics-0", "fp16", bundle="hiif-compact").refused) == 1
    assert store.find(HERE, ONNX, "statistics-0", "fp16", bundle="other").refused == ()
    assert store.find(HERE, ONNX, "encoder", "fp16").refused == ()


# Reports.


def test_a_report_is_stored_with_the_engine(store: EngineStore) -> None:
    engine = store.set_report(stored(store), {"psnr": 71.25, "cases": [{"name": "a", "max": 1e-4}]})
    assert engine.sidecar.report["psnr"] == 71.25
    assert store.get_or_build(make_identity(), not_needed) == engine
    assert engine.load() == plan_bytes(5000, seed=1)


def test_a_report_of_an_engine_that_was_rebuilt_meanwhile_is_refused(store: EngineStore) -> None:
    builds = Builds()
    old = store.get_or_build(make_identity(), builds)
    store.remove(old)
    new = store.get_or_build(make_identity(), builds)
    with pytest.raises(EngineError, match="rebuilt or removed since it was verified; verify again"):
        store.set_report(old, {"psnr": 1.0})
    assert store.entries() == [new]
    store.remove(new)
    with pytest.raises(EngineError, match="rebuilt or removed"):
        store.set_report(new, {"psnr": 1.0})
    assert names(store) == []


# Many at once.

WORKER = """
import hashlib, os, sys, time
from pathlib import Path
from hiif_deploy.engine_store import EngineStore
from sample_engine import make_identity
log = Path(sys.argv[2])
def note(word):
    with log.open("a") as file:
        file.write(word + "\\n")
def build():
    note("builds")
    # Not before all others wait.
    while log.read_text().count("waits") < 7:
        time.sleep(0.01)
    return os.urandom(100_000), {}
def say(line):
    assert line.endswith("another process is building it; waiting for that"), line
    note("waits")
store = EngineStore.open(sys.argv[1])
print(hashlib.sha256(store.get_or_build(make_identity(), build, say).load()).hexdigest())
"""


def test_eight_processes_build_once_and_get_the_same_bytes(store: EngineStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, str(store.root), str(log)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    answers = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8, answers
    assert sorted(log.read_text().split()) == ["builds", *["waits"] * 7]
    engine = store.get_or_build(make_identity(), not_needed)
    assert {out for out, _ in answers} == {hashlib.sha256(engine.load()).hexdigest() + "\n"}
    assert len(names(store)) == 2


def test_waiting_for_another_builder_is_said_once(store: EngineStore, said: list[str]) -> None:
    may_finish, has_begun = threading.Event(), threading.Event()

    def slow() -> tuple[bytes, Mapping[str, Any]]:
        has_begun.set()
        assert may_finish.wait(60)
        return plan_bytes(), {}

    def say(line: str) -> None:
        said.append(line)
        may_finish.set()

    first = threading.Thread(target=store.get_or_build, args=(make_identity(), slow))
    first.start()
    assert has_begun.wait(60)
    # A different engine is not waited for.
    store.get_or_build(make_identity(graph="decoder"), Builds(), say)
    assert said == []
    engine = store.get_or_build(make_identity(), not_needed, say)
    first.join()
    assert said == [f"{engine.path.stem}: another process is building it; waiting for that"]


def test_when_the_first_builder_fails_the_one_that_waited_builds(store: EngineStore) -> None:
    may_fail, has_begun = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def slow() -> tuple[bytes, Mapping[str, Any]]:
        has_begun.set()
        assert may_fail.wait(60)
        raise EngineError("out of memory")

    def first() -> None:
        try:
            store.get_or_build(make_identity(), slow)
        except EngineError as error:
            failures.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert has_begun.wait(60)
    builds = Builds()
    store.get_or_build(make_identity(), builds, lambda _: may_fail.set())
    thread.join()
    assert (len(failures), builds.count) == (1, 1)


KILLED = """
import os, signal, sys
from hiif_deploy.engine_store import EngineStore
from sample_engine import make_identity, plan_bytes
moment = sys.argv[2]
store = EngineStore.open(sys.argv[1])
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def build():
    if moment == "building":
        die()
    return plan_bytes(), {}
if moment == "writing":
    os.fsync = die
if moment == "between":
    import hiif_deploy.engine_store.store as module
    write = module.write_whole
    module.write_whole = lambda path, data: die() if path.suffix == ".json" else write(path, data)
store.get_or_build(make_identity(), build)
"""


@POSIX
@pytest.mark.parametrize(("moment", "left"), [("building", 0), ("writing", 1), ("between", 1)])
def test_a_killed_builder_does_not_stand_in_the_way(
    store: EngineStore, said: list[str], moment: str, left: int
) -> None:
    assert run_python(KILLED, store.root, moment, check=False).returncode == -signal.SIGKILL
    assert len(names(store)) == left
    engine = store.get_or_build(make_identity(), Builds(), said.append)
    assert engine.load() == plan_bytes()
    assert len(names(store)) == 2
    assert not any("waiting" in line for line in said)


@POSIX
@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("writing", "half-written by a process that is gone"),
        ("between", "an engine without a sidecar: writing it was cut off"),
    ],
)
def test_pruning_removes_what_a_killed_builder_left(store: EngineStore, moment: str, reason: str) -> None:
    run_python(KILLED, store.root, moment, check=False)
    (removal,) = store.prune()
    assert (removal.reason, removal.size) == (reason, 5000)
    assert names(store) == []


# The disk.


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


@POSIX
def test_a_file_that_really_does_not_fit_leaves_nothing(store: EngineStore) -> None:
    out = run_python(LIMITED, store.root).stdout
    assert "no room for 100,000 bytes (File too large" in out
    assert [path.split("-")[2] for path in names(store)] == ["decoder", "decoder"]


def test_any_other_failure_to_write_is_told(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_lock_that_cannot_be_taken_is_told(store: EngineStore) -> None:
    (store.root / "locks").rmdir()
    (store.root / "locks").write_text("a file in place of the folder")
    with pytest.raises(EngineError, match=r"\.lock: cannot be locked \(.*\); is the folder writable"):
        stored(store)


# Pruning.


def test_pruning_keeps_what_is_sound(store: EngineStore) -> None:
    engine = stored(store)
    store.timing_cache(HERE).save(b"timings")
    assert store.prune() == []
    assert store.entries() == [engine]
    assert store.timing_cache(HERE).load(pytest.fail) == b"timings"


def test_pruning_removes_damaged_engines_and_says_what_it_freed(store: EngineStore) -> None:
    good, bad = stored(store), stored(store, graph="decoder")
    flip(bad.path, 2048)
    freed = bad.path.stat().st_size + bad.path.with_suffix(".json").stat().st_size
    planned = store.prune(dry_run=True)
    assert len(store.entries()) == 2
    removed = store.prune()
    assert removed == planned
    assert [(removal.path, removal.size) for removal in removed] == [(bad.path, freed)]
    assert removed[0].reason.startswith("sha256 is ")
    assert store.entries() == [good]


def test_pruning_for_a_machine_removes_what_does_not_run_there(store: EngineStore) -> None:
    own, foreign = stored(store), stored(store, gpu="NVIDIA L4")
    assert store.prune() == []
    (removal,) = store.prune(HERE)
    assert removal.path == foreign.path
    assert "built by TensorRT 10.13.3.9 for NVIDIA L4" in removal.reason
    assert store.entries() == [own]


def test_pruning_everything_empties_the_store(store: EngineStore) -> None:
    stored(store)
    stored(store, graph="decoder")
    cache = store.timing_cache(HERE)
    cache.save(b"timings")
    removed = store.prune(everything=True)
    assert len(removed) == 3
    assert {removal.reason for removal in removed} == {"everything is to go"}
    assert names(store) == []
    assert list((store.root / "timing").iterdir()) == []
    stored(store)


def test_pruning_leaves_an_engine_alone_that_is_being_built(store: EngineStore, said: list[str]) -> None:
    aside = store.root / "engines" / f".{store.path(make_identity()).name}.0123abcd.aside"

    def build() -> tuple[bytes, Mapping[str, Any]]:
        aside.write_bytes(b"half")
        thread = threading.Thread(target=lambda: pruned.extend(store.prune(everything=True, say=said.append)))
        thread.start()
        thread.join()
        assert aside.exists()
        return plan_bytes(), {}

    pruned: list[Any] = []
    engine = store.get_or_build(make_identity(), build)
    assert said == [f"{engine.path.stem}: another process is writing it now; left alone"]
    assert pruned == []
    assert [removal.path for removal in store.prune()] == [aside]
    assert store.entries() == [engine]


def test_removing_an_engine_removes_its_sidecar_too(store: EngineStore) -> None:
    engine = stored(store)
    freed = engine.path.stat().st_size + engine.path.with_suffix(".json").stat().st_size
    assert store.remove(engine) == freed
    assert names(store) == []
    assert store.remove(engine) == 0


# A store that cannot be written.


def read_only_store(store: EngineStore, monkeypatch: pytest.MonkeyPatch, temporary: Path) -> tuple[EngineStore, str]:
    """`store` opened again, on a file system that was mounted read-only; and what was said about that."""
    import tempfile

    real = tempfile.TemporaryFile

    def refuse(**options: Any) -> Any:
        if store.root in Path(options["dir"]).parents:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(**options)

    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    said: list[str] = []
    opened = EngineStore.open(store.root, said.append)
    (message,) = said
    return opened, message


def test_engines_of_a_store_that_cannot_be_written_are_used_and_new_ones_kept_elsewhere(
    store: EngineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = stored(store)
    (tmp_path / "tmp").mkdir()
    opened, message = read_only_store(store, monkeypatch, tmp_path / "tmp")
    assert message == (
        f"{store.root}: the store cannot be written (Read-only file system); engines are kept in {opened.root} instead"
    )
    assert opened.root.parent == tmp_path / "tmp"
    assert opened.get_or_build(make_identity(), not_needed) == engine
    assert opened.find(HERE, ONNX, "encoder", "fp16").engines == (engine,)
    other = stored(opened, graph="decoder")
    assert other.path.parent == opened.root / "engines"
    assert len(opened.entries()) == 2
    assert [removal.path for removal in opened.prune(everything=True)] == [other.path]
    assert store.entries() == [engine]


def test_a_damaged_engine_in_a_store_that_cannot_be_written_is_named_and_rebuilt_elsewhere(
    store: EngineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    engine = stored(store)
    flip(engine.path, 1024)
    opened, _ = read_only_store(store, monkeypatch, tmp_path)
    rebuilt = opened.get_or_build(make_identity(), Builds(), said.append)
    assert rebuilt.path.parent == opened.root / "engines"
    assert [line.startswith(f"{engine.path}: sha256 is ") for line in said] == [True]
    assert opened.get_or_build(make_identity(), not_needed) == rebuilt


def test_replacing_a_field_gives_another_file(store: EngineStore) -> None:
    identity: EngineIdentity = make_identity()
    assert store.path(identity) != store.path(replace(identity, library_version="10.13.3.10"))
