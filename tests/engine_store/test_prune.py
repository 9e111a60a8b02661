"""Pruning removes what is damaged or half-written, and nothing that a process is writing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from hiif_deploy.engine_store.store import EngineStore
from sample_engine import flip, make_identity, names, plan_bytes, stored


def test_pruning_keeps_what_is_sound(store: EngineStore) -> None:
    engine = stored(store)
    assert store.prune() == []
    assert store.entries() == [engine]


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


def test_pruning_everything_empties_the_store(store: EngineStore) -> None:
    stored(store)
    stored(store, graph="decoder")
    removed = store.prune(everything=True)
    assert len(removed) == 2
    assert {removal.reason for removal in removed} == {"everything is to go"}
    assert names(store) == []
    stored(store)


def test_pruning_leaves_an_engine_alone_that_is_being_built(store: EngineStore, log: pytest.LogCaptureFixture) -> None:
    temporary = store.root / "engines" / f".{store.path(make_identity()).name}.0123abcd.tmp"

    def build() -> tuple[bytes, Mapping[str, Any]]:
        temporary.write_bytes(b"half")
        thread = threading.Thread(target=lambda: pruned.extend(store.prune(everything=True)))
        thread.start()
        thread.join()
        assert temporary.exists()
        return plan_bytes(), {}

    pruned: list[Any] = []
    engine = store.get_or_build(make_identity(), build)
    assert log.messages == [f"{engine.path.stem}: another process is writing it now; left alone"]
    assert pruned == []
    assert [removal.path for removal in store.prune()] == [temporary]
    assert store.entries() == [engine]


def test_removing_an_engine_removes_its_sidecar_too(store: EngineStore) -> None:
    engine = stored(store)
    store.remove(engine)
    assert names(store) == []
    store.remove(engine)
