"""A damaged engine or sidecar is named, never used, and built again."""

from __future__ import annotations

import os
import re

import pytest

from hiif_deploy.engine_store.entry import RefusedEngine, StoredEngine
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError
from sample_engine import HERE, ONNX, Builds, flip, make_identity, names, plan_bytes, stored


def test_corruption_at_every_kilobyte_is_named_and_rebuilt(store: EngineStore, log: pytest.LogCaptureFixture) -> None:
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
            (found,) = store.find(HERE, "hiif-compact", "encoder", "fp16", ONNX)
            assert isinstance(found, RefusedEngine)
            log.clear()
            engine = store.get_or_build(make_identity(), builds)
            (message,) = log.messages
            assert re.match(expected, message)
            assert builds.count == before + 1
            assert engine.load() == plan_bytes(size, seed=builds.count)
    assert len(names(store)) == 2


def test_a_sidecar_damaged_at_every_64th_byte_is_named_and_rebuilt(
    store: EngineStore, log: pytest.LogCaptureFixture
) -> None:
    path = stored(store).path
    sidecar = path.with_suffix(".json")
    whole = sidecar.read_bytes()
    for mask in (0xFF, 0x01, 0x20):
        for at in range(0, len(whole), 64):
            data = bytearray(whole)
            data[at] ^= mask
            sidecar.write_bytes(data)
            (found,) = store.find(HERE, "hiif-compact", "encoder", "fp16", ONNX)
            assert isinstance(found, RefusedEngine)
            assert found.reason.isprintable()
            assert len(store.entries()) == 1
    sidecar.write_bytes(whole[:64])
    store.get_or_build(make_identity(), Builds())
    assert [line.endswith("it is built again") for line in log.messages] == [True]


@pytest.mark.parametrize("at", range(0, 960, 64))
def test_a_truncated_sidecar_is_corrupt(store: EngineStore, at: int) -> None:
    sidecar = stored(store).path.with_suffix(".json")
    data = sidecar.read_bytes()
    assert 800 < len(data) < 960
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


def test_a_sidecar_without_an_engine_is_named_and_rebuilt(store: EngineStore, log: pytest.LogCaptureFixture) -> None:
    path = stored(store).path
    path.unlink()
    store.get_or_build(make_identity(), Builds())
    assert log.messages == [f"{path}: a sidecar without an engine; it is built again"]


def test_an_engine_without_a_sidecar_is_named_and_rebuilt(store: EngineStore, log: pytest.LogCaptureFixture) -> None:
    path = stored(store).path
    path.with_suffix(".json").unlink()
    store.get_or_build(make_identity(), Builds())
    assert log.messages == [f"{path}: an engine without a sidecar: writing it was cut off; it is built again"]


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
    store.get_or_build(make_identity(graph="decoder"), Builds())
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
