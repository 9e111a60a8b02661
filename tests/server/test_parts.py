"""The parts of a server: caches within their budgets, work done once, and queues that refuse and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from hiif_deploy import EngineOptions, ImageError, OptionError, RenderOptions, open_bundle
from hiif_deploy.cli.serve_command import read_token
from hiif_deploy.server.caches.byte_cache import ByteCache
from hiif_deploy.server.caches.single_flight import SingleFlight
from hiif_deploy.server.caches.tile_store import TileStore
from hiif_deploy.server.collection import Collection
from hiif_deploy.server.models import opened_upscalers
from hiif_deploy.server.options import ServeOptions
from hiif_deploy.server.web import RequestError
from hiif_deploy.server.work_queue import Progress, WorkQueue


def test_a_cache_in_memory_keeps_what_was_used_last_within_its_budget() -> None:
    cache: ByteCache[bytes] = ByteCache(10, len)
    for name in "abc":
        cache.put(name, bytes(4))
        cache.get("a")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (bytes(4), None, bytes(4))
    cache.put("huge", bytes(11))
    assert (cache.get("huge"), cache.bytes, len(cache)) == (None, 8, 2)
    cache.put("a", bytes(1))
    assert cache.bytes == 5


def test_tiles_on_the_disk_survive_a_restart_within_their_budget(tmp_path: Path) -> None:
    store = TileStore(tmp_path, 3 * 132)
    for name in "abcd":
        store.put(name, name.encode() * 100)
    assert [store.get(name) for name in "abcd"] == [None, b"b" * 100, b"c" * 100, b"d" * 100]
    (tmp_path / ".half.tmp").write_bytes(b"x")
    again = TileStore(tmp_path, 2 * 132)
    assert sum(again.get(name) is not None for name in "bcd") == 2
    assert len(list(tmp_path.iterdir())) == 2
    assert again.bytes == 2 * 132


def test_a_damaged_tile_is_not_given(tmp_path: Path) -> None:
    store = TileStore(tmp_path, 1000)
    store.put("a", b"a" * 100)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert store.get("a") is None
    assert (store.bytes, list(tmp_path.iterdir())) == (0, [])


def test_tiles_that_cannot_be_written_are_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "tiles"
    folder.mkdir()
    store = TileStore(folder, 1000)
    folder.rmdir()
    for name in "ab":
        store.put(name, b"x")
    assert (store.get("a"), store.bytes) == (None, 0)
    assert len([record for record in caplog.records if "tiles cannot be kept" in record.message]) == 1


def test_work_under_one_key_is_done_once_and_its_error_reaches_all() -> None:
    calls: list[str] = []

    async def work() -> str:
        calls.append("began")
        await asyncio.sleep(0.01)
        raise ValueError("no")

    async def everyone() -> list[str | BaseException]:
        flights: SingleFlight[str] = SingleFlight()
        impatient, *patient = (asyncio.create_task(flights.run("key", work)) for _ in range(6))
        await asyncio.sleep(0)
        impatient.cancel()
        return await asyncio.gather(*patient, return_exceptions=True)

    errors = asyncio.run(everyone())
    assert [str(error) for error in errors] == ["no"] * 5
    assert calls == ["began"]


def test_work_that_everyone_has_left_is_cancelled() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def everyone() -> None:
        flights: SingleFlight[None] = SingleFlight()
        clients = [asyncio.create_task(flights.run("key", work)) for _ in range(2)]
        await asyncio.sleep(0.01)
        clients[0].cancel()
        await asyncio.sleep(0.01)
        assert ended == []
        clients[1].cancel()
        await asyncio.sleep(0.01)
        assert ended == ["cancelled"]

    asyncio.run(everyone())


def test_a_queue_refuses_what_is_too_much_and_stops_what_is_not_wanted() -> None:
    begun = threading.Event()

    def forever(progress: Progress) -> None:
        begun.set()
        while True:
            progress(1)
            time.sleep(0.001)

    async def scenario() -> None:
        queue = WorkQueue("test", limit=1, seconds=60)
        first, second = queue.reserve(), queue.reserve()
        tasks = [asyncio.create_task(queue.run(forever, progress)) for progress in (first, second)]
        await asyncio.to_thread(begun.wait)
        with pytest.raises(RequestError, match="2 requests wait already") as refused:
            await queue.run(forever)
        second.stop()
        first.stop()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert (refused.value.status, [str(error) for error in results]) == (503, ["the work was cancelled"] * 2)
        assert (first.done > 0, second.done, queue.length) == (True, 0, 0)
        queue.close()

    asyncio.run(scenario())


def test_work_that_takes_too_long_is_ended() -> None:
    progress = Progress(0.01)
    progress(1)
    time.sleep(0.02)
    with pytest.raises(RequestError, match=r"longer than 0\.01 seconds"):
        progress(1)


def test_ids_are_plain_and_unique_and_uploads_make_room(folder: Path, tmp_path: Path) -> None:
    collection = Collection(tmp_path, 250)
    collection.add_folder(folder)
    collection.add_folder(folder / "waves.png")
    assert [entry.id for entry in collection.entries()] == ["broken", "clear", "deep-grey-16", "waves", "waves-2"]
    ids = []
    for name in "abc":
        (tmp_path / "part").write_bytes(name.encode() * 100)
        ids.append(collection.add_upload(tmp_path / "part", f"{name}.png").id)
        os.utime(tmp_path / ids[-1], times=(len(ids), len(ids)))
    assert {path.stem for path in tmp_path.iterdir()} == set(ids[1:])
    assert [collection.find(id_).name for id_ in ids[1:]] == ["b.png", "c.png"]
    (tmp_path / "part").write_bytes(b"c" * 100)
    before = collection.find(ids[2]).version
    assert collection.add_upload(tmp_path / "part", "again.png").version == before
    collection.remove(ids[1])
    for gone in ids[:2]:
        with pytest.raises(RequestError):
            collection.find(gone)
    assert {path.stem for path in tmp_path.iterdir()} == {ids[2]}
    with pytest.raises(RequestError, match="only uploaded"):
        collection.remove("waves")
    with pytest.raises(ImageError, match="no pictures there"):
        collection.add_folder(tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "server.example"])
def test_other_addresses_than_loopback_need_a_token(host: str) -> None:
    with pytest.raises(OptionError, match="needs a token"):
        ServeOptions(host)
    assert ServeOptions(host, token="x" * 16).token
    assert ServeOptions("::1").token is ServeOptions("localhost").token is None


def test_a_token_is_long_and_comes_from_one_place(tmp_path: Path) -> None:
    for token in ("short", "x" * 15, "x" * 20 + ";", "a token with spaces in it", "x" * 16 + "\n"):
        with pytest.raises(OptionError, match="16 or more"):
            ServeOptions(token=token)
    (tmp_path / "token").write_text("t" * 20 + "\n")
    assert read_token(None, tmp_path / "token") == "t" * 20
    with pytest.raises(OptionError, match="give one of them"):
        read_token("a", tmp_path / "token")
    with pytest.raises(OptionError, match="cannot be read"):
        read_token(None, tmp_path / "none")


def test_one_line_names_the_engine_of_all_models(caplog: pytest.LogCaptureFixture) -> None:
    bundles = {name: open_bundle(name) for name in ("hiif-live", "hiif-video")}
    with caplog.at_level(logging.INFO), opened_upscalers(bundles, EngineOptions(threads=1), RenderOptions()) as models:
        assert [upscaler.contract.name for upscaler in models.values()] == list(bundles)
    (line,) = [line for line in caplog.messages if "engine auto" in line]
    assert line.startswith("hiif-live, hiif-video: engine auto: ")
