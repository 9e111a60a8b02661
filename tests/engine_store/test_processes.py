"""Any number of processes and threads may build at once, and a killed one leaves nothing in the way."""

from __future__ import annotations

import hashlib
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError
from sample_engine import Builds, listening, make_identity, names, not_needed, plan_bytes, start_python

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


WORKER = """
import hashlib, os, sys, time
from pathlib import Path
from hiif_deploy.engine_store import EngineStore
from sample_engine import listening, make_identity
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
def on_message(line):
    assert line.endswith("another process is building it; waiting for that"), line
    note("waits")
store = EngineStore.open(sys.argv[1])
with listening(on_message):
    print(hashlib.sha256(store.get_or_build(make_identity(), build).load()).hexdigest())
"""


def test_eight_processes_build_once_and_get_the_same_bytes(store: EngineStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start_python(WORKER, store.root, log) for _ in range(8)]
    answers = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8, answers
    assert sorted(log.read_text().split()) == ["builds", *["waits"] * 7]
    engine = store.get_or_build(make_identity(), not_needed)
    assert {out for out, _ in answers} == {hashlib.sha256(engine.load()).hexdigest() + "\n"}
    assert len(names(store)) == 2


def test_waiting_for_another_builder_is_logged_once(store: EngineStore, log: pytest.LogCaptureFixture) -> None:
    may_finish, has_begun = threading.Event(), threading.Event()

    def slow() -> tuple[bytes, Mapping[str, Any]]:
        has_begun.set()
        assert may_finish.wait(60)
        return plan_bytes(), {}

    first = threading.Thread(target=store.get_or_build, args=(make_identity(), slow))
    first.start()
    assert has_begun.wait(60)
    # A different engine is not waited for.
    store.get_or_build(make_identity(graph="decoder"), Builds())
    assert log.messages == []
    with listening(lambda _: may_finish.set()):
        engine = store.get_or_build(make_identity(), not_needed)
    first.join()
    assert log.messages == [f"{engine.path.stem}: another process is building it; waiting for that"]


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
    with listening(lambda _: may_fail.set()):
        store.get_or_build(make_identity(), builds)
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
    write = module.write_file
    module.write_file = lambda path, data: die() if path.suffix == ".json" else write(path, data)
store.get_or_build(make_identity(), build)
"""


def kill_builder(store: EngineStore, moment: str) -> None:
    process = start_python(KILLED, store.root, moment)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


@POSIX
@pytest.mark.parametrize(("moment", "left"), [("building", 0), ("writing", 1), ("between", 1)])
def test_a_killed_builder_does_not_stand_in_the_way(
    store: EngineStore, log: pytest.LogCaptureFixture, moment: str, left: int
) -> None:
    kill_builder(store, moment)
    assert len(names(store)) == left
    engine = store.get_or_build(make_identity(), Builds())
    assert engine.load() == plan_bytes()
    assert len(names(store)) == 2
    assert not any("waiting" in line for line in log.messages)


@POSIX
@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("writing", "half-written by a process that is gone"),
        ("between", "an engine without a sidecar: writing it was cut off"),
    ],
)
def test_pruning_removes_what_a_killed_builder_left(store: EngineStore, moment: str, reason: str) -> None:
    kill_builder(store, moment)
    (removal,) = store.prune()
    assert (removal.reason, removal.size) == (reason, 5000)
    assert names(store) == []
