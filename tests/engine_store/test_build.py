"""An engine is built once, its bytes and its report come back, and nothing else is left."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.engine_store.entry import StoredEngine
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError
from sample_engine import Builds, make_identity, names, not_needed, plan_bytes, stored


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
    def fail() -> tuple[bytes, Mapping[str, Any]]:
        raise error

    with pytest.raises(type(error)):
        store.get_or_build(make_identity(), fail)
    assert names(store) == []
    assert stored(store).load() == plan_bytes(5000, seed=1)


def test_replacing_a_field_gives_another_file(store: EngineStore) -> None:
    identity = make_identity()
    assert store.path(identity) != store.path(replace(identity, library_version="10.13.3.10"))


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
