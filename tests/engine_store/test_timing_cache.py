"""A timing cache is whole or not there, whoever saves it at the same time."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hiif_deploy.engine_store.store import EngineStore, TimingCache
from hiif_deploy.errors import EngineError
from sample_engine import HERE, listening, start_python


@pytest.fixture
def cache(store: EngineStore) -> TimingCache:
    return store.timing_cache(HERE)


def damaged(cache: TimingCache, reason: str) -> None:
    messages: list[str] = []
    with listening(messages.append):
        assert cache.load() == b""
    (message,) = messages
    assert message.startswith(f"{cache.path}: damaged ({reason}")
    assert message.endswith("the build measures everything again")


def test_a_cache_comes_back_as_it_was_saved(cache: TimingCache, log: pytest.LogCaptureFixture) -> None:
    assert cache.load() == b""
    cache.save(b"one")
    assert cache.load() == b"one"
    cache.save(b"two" * 1000)
    assert cache.load() == b"two" * 1000
    assert cache.path.read_bytes() == b"two" * 1000
    assert log.messages == []


def test_its_name_has_the_library_its_version_and_the_gpu(store: EngineStore, cache: TimingCache) -> None:
    assert cache.path.parent == store.root / "timing"
    assert cache.path.name.startswith("tensorrt-10.13.3.9-NVIDIA_GeForce_RTX_4090-8.9-")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("library", "tensorrt-rtx"),
        ("library_version", "10.13.3.10"),
        ("gpu", "NVIDIA GeForce RTX_4090"),
        ("gpu", "../" * 60),
        ("capability", "8.6"),
    ],
)
def test_every_library_version_and_gpu_has_a_cache_of_its_own(store: EngineStore, field: str, value: str) -> None:
    one, two = store.timing_cache(HERE), store.timing_cache(replace(HERE, **{field: value}))
    assert one.path != two.path
    assert two.path.parent == store.root / "timing"
    two.save(b"two")
    assert one.load() == b""


def test_another_driver_shares_the_cache(store: EngineStore, cache: TimingCache) -> None:
    assert store.timing_cache(replace(HERE, driver="13.1")) == cache


@pytest.mark.parametrize("at", range(0, 4096, 512))
def test_a_damaged_cache_is_named_and_not_used(cache: TimingCache, at: int) -> None:
    cache.save(bytes(4096))
    data = bytearray(4096)
    data[at] = 1
    for wrong in (data, data[:at], bytes(4097)):
        cache.path.write_bytes(wrong)
        damaged(cache, "its bytes do not have the sha256 that stands beside it")
    cache.save(b"new")
    assert cache.load() == b"new"


def test_a_cache_without_its_hash_is_named_and_not_used(cache: TimingCache) -> None:
    cache.save(b"timings")
    cache.path.with_suffix(".sha256").unlink()
    damaged(cache, "it cannot be checked: No such file")


def test_saving_nothing_is_an_error(cache: TimingCache) -> None:
    with pytest.raises(EngineError, match="an empty timing cache was to be saved"):
        cache.save(b"")


def test_a_cache_that_cannot_be_written_stays_as_it_was(cache: TimingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.save(b"old")

    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EngineError, match="no room for 3 bytes"):
        cache.save(b"new")
    assert cache.load() == b"old"
    assert len(list(cache.path.parent.iterdir())) == 2


def test_what_a_killed_process_left_goes_with_the_next_save_or_prune(store: EngineStore, cache: TimingCache) -> None:
    left = cache.path.with_name(f".{cache.path.name}.0123abcd.tmp")
    left.write_bytes(b"half")
    cache.save(b"timings")
    assert not left.exists()
    left.write_bytes(b"half")
    assert [removal.path for removal in store.prune()] == [left]
    assert cache.load() == b"timings"


WORKER = """
import sys
from hiif_deploy.engine_store import EngineStore
from sample_engine import HERE, listening
cache = EngineStore.open(sys.argv[1]).timing_cache(HERE)
def fail(line):
    raise SystemExit(line)
for _ in range(40):
    cache.save(sys.argv[2].encode() * 20_000)
    with listening(fail):
        data = cache.load()
    assert len(data) == 20_000 and len(set(data)) == 1
"""


def test_processes_that_save_at_once_never_corrupt_it(store: EngineStore, cache: TimingCache) -> None:
    workers = [start_python(WORKER, store.root, letter) for letter in "abcd"]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, errors
    assert set(cache.load()) <= set(b"abcd")
    assert len(list(cache.path.parent.iterdir())) == 2
