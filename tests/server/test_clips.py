"""Clips over HTTP: the bytes of the command line, after a kill too; planned, bounded, cancelled."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

from clips import X264, Video, make_clip, picture, plain
from hiif_deploy import Upscaler
from hiif_deploy.geometry.target import Target
from hiif_deploy.images.decode import decode
from hiif_deploy.server.clips import clips
from hiif_deploy.server.clips.clips import MAX_ENDS, Clips
from hiif_deploy.server.clips.samples import sample_numbers
from hiif_deploy.server.metrics import Metrics
from hiif_deploy.server.options import Limits, ServeOptions
from hiif_deploy.server.web import RequestError
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import plan_video
from hiif_deploy.video.probe import probe
from hiif_deploy.video.run import make_video
from server_client import running

LONG = Video(frames=110, size=(40, 64), options=(*X264.items(), ("g", "50")))
"""Of three segments, whose making takes long enough to be stopped in the middle."""


@pytest.fixture(scope="module")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip that holds every kind of stream, and a long one."""
    folder = tmp_path_factory.mktemp("clips")
    make_clip("everything", folder)
    make_clip("rotated", folder)
    plain(folder / "long.mp4", LONG, audio_ms=1000)
    return folder


@pytest.fixture(scope="module")
def theatre(live: Upscaler, folder: Path) -> Iterator[Any]:
    """A server that takes no other clip while one runs."""
    limits = Limits(clips=0, clip_frames=110, clip_upload_bytes=1 << 20, clips_bytes=12 << 20, job_bytes=1 << 28)
    with running({"hiif-live": live}, [folder / "waves.png"], ServeOptions(port=0, limits=limits)) as client:
        yield client


def wanted(source: Path, upscaler: Upscaler, folder: Path, scale: float = 2.0) -> bytes:
    """What the command line makes of a clip."""
    output = folder / f"wanted{source.suffix}"
    make_video(plan_video(source, output, Target(scale=scale), VideoOptions()), upscaler, output, style="none")
    return output.read_bytes()


def until(holds: Callable[[], Any], seconds: float = 60) -> Any:
    """What `holds` returns once that is true."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return found


def send(client: Any, path: Path, query: str) -> Any:
    return client.post(f"/v1/clips?name={path.name}&{query}", content=path.read_bytes())


def test_a_clip_comes_back_with_all_its_streams(theatre: Any, live: Upscaler, movies: Path, tmp_path: Path) -> None:
    source = movies / "everything.mkv"
    answer = theatre.post("/v1/clips", files={"file": ("../a/ä.mkv", source.read_bytes())}, data={"scale": "2"})
    state, path = answer.json(), answer.headers["location"]
    assert (answer.status_code, state["clip"], state["frames"]) == (202, "ä.mkv", 15)
    assert (state["source"], state["target"]) == ({"width": 32, "height": 24}, {"width": 64, "height": 48})
    events = [json.loads(line[6:]) for line in theatre.get(f"{path}/events").text.splitlines() if line]
    assert (events[-1]["status"], events[-1]["steps_done"]) == ("done", 15), events[-1]
    result = theatre.get(f"{path}/result")
    assert result.headers["content-type"] == "video/x-matroska"
    assert result.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%A4_x2.mkv"
    assert result.content == wanted(source, live, tmp_path)
    assert theatre.get(f"{path}/result", headers={"Range": "bytes=0-9"}).content == result.content[:10]
    assert theatre.get(f"{path}/source").content == source.read_bytes()
    assert theatre.delete(path).status_code == 204
    assert theatre.get(path).status_code == 404


def test_sampled_frames_zoom_before_the_clip_is_upscaled(theatre: Any, movies: Path) -> None:
    answer = send(theatre, movies / "rotated.mp4", "scale=2&start=false")
    state, path = answer.json(), answer.headers["location"]
    assert (answer.status_code, state["status"], len(state["samples"])) == (201, "planned", 12)
    sample = state["samples"][5]
    frame = decode(theatre.get(f"/iiif/{sample}/full/max/0/default.png").content, 1 << 20).pixels
    own = np.rot90(picture(5, (24, 32)) / 257)  # Players turn it by 90 degrees.
    assert frame.shape == (32, 24, 3)
    assert np.abs(frame - own).mean() < 8
    assert np.abs(frame - own[::-1, ::-1]).mean() > 20
    assert theatre.get(f"/iiif/{sample}@8x/info.json").json()["height"] == 256
    assert sample not in theatre.get("/v1/pictures").text
    assert theatre.get(f"{path}/result").status_code == 409
    plan = theatre.get(f"{path}/plan?scale=3&format=mkv").json()
    assert (plan["target"]["width"], plan["frames"]) == (96, 12)
    assert plan["seconds_planned"] > 0
    theatre.delete(path)
    assert theatre.get(f"/iiif/{sample}/info.json").status_code == 404


def test_samples_are_key_frames_where_those_are_near(movies: Path) -> None:
    assert sample_numbers(probe(movies / "long.mp4")) == [0, 13, 22, 32, 41, 50, 59, 68, 77, 87, 96, 105]
    assert sample_numbers(probe(movies / "everything.mkv"))[-1] == 14


def test_a_cancelled_clip_starts_again_where_it_was(theatre: Any, live: Upscaler, movies: Path, tmp_path: Path) -> None:
    source = movies / "long.mp4"
    path = send(theatre, source, "scale=2").headers["location"]
    refused = send(theatre, source, "scale=2")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
    assert theatre.post(f"{path}/start").status_code == 409
    until(lambda: theatre.get(path).json()["steps_done"] > 60)
    theatre.delete(path)
    until(lambda: theatre.get(path).json()["status"] == "cancelled")
    assert theatre.post(f"{path}/start").status_code == 202
    first = next(state for state in _states(theatre, path) if state["steps_done"])
    assert first["steps_done"] >= 48
    until(lambda: theatre.get(path).json()["status"] == "done")
    assert theatre.get(f"{path}/result").content == wanted(source, live, tmp_path)
    assert theatre.post(f"{path}/start?scale=1.5").status_code == 202  # another order: nothing of the old one is used
    assert [*_states(theatre, path)][-1]["target"] == {"width": 96, "height": 60}
    assert theatre.get(f"{path}/result").content == wanted(source, live, tmp_path, 1.5)


def test_pictures_come_first(theatre: Any, movies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "PATIENCE", 60.0)
    path = send(theatre, movies / "long.mp4", "scale=2").headers["location"]
    until(lambda: theatre.get(path).json()["steps_done"])
    job = theatre.post("/v1/jobs?picture=waves&scale=24&format=jpg").headers["location"]
    until(lambda: theatre.get(job).json()["status"] == "running")
    made = []
    while theatre.get(job).json()["status"] == "running":
        made.append(theatre.get(path).json()["steps_done"])
    assert made[-2] - made[0] <= 8  # those in the queues; the last one may be of later
    until(lambda: theatre.get(path).json()["status"] == "done")


def _states(client: Any, path: str) -> Iterator[Any]:
    with client.stream("GET", f"{path}/events") as stream:
        yield from (json.loads(line[6:]) for line in stream.iter_lines() if line)


@pytest.mark.parametrize(
    ("name", "query", "content", "status", "reason"),
    [
        ("a.mkv", "scale=2", b"no clip", 415, "a.mkv: cannot be read as a video"),
        ("a.m3u8", "scale=2", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "cannot be read as a video"),
        ("a.mkv", "scale=2", b"ffconcat version 1.0\nfile clip.json\n", 415, "cannot be read as a video"),
        ("a.mkv", "scale=2", b"", 400, "no body"),
        ("a.mkv", "scale=2", bytes(1 << 21), 413, "the limit of this server"),
        ("a.mkv", "scale=0.5", None, 400, "at least 1"),
        ("a.mkv", "scale=2&format=avi", None, 400, "expected one of mkv"),
        ("a.mkv", "scale=2&on_error=guess", None, 400, "expected one of stop"),
        ("a.mkv", "scale=2&output=x", None, 400, "unknown parameters: output"),
        ("a.mkv", "scale=2&model=none", None, 404, "models: hiif-live"),
        ("a.mkv", "scale=2&start=perhaps", None, 400, "true or false"),
        ("a.mkv", "scale=1_0", None, 400, "expected a number"),
        ("a.mkv", "scale=300", None, 413, "pixels would come out"),
        ("a.mkv", "scale=200", None, 413, "MiB of memory"),
        ("a.mkv", "scale=100", None, 413, "MiB of disk"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    theatre: Any, movies: Path, name: str, query: str, content: bytes | None, status: int, reason: str
) -> None:
    sent = (movies / "everything.mkv").read_bytes() if content is None else content
    answer = theatre.post(f"/v1/clips?name={name}&{query}", content=sent)
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["error"]
    assert "/tmp" not in answer.json()["error"]


def test_too_many_frames_and_interlaced_ones_are_refused(theatre: Any, tmp_path: Path) -> None:
    plain(tmp_path / "longer.mkv", Video(frames=111))
    assert "more than 110 frames" in send(theatre, tmp_path / "longer.mkv", "scale=2").json()["error"]
    answer = send(theatre, make_clip("interlaced", tmp_path), "scale=2")
    assert (answer.status_code, answer.json()["error"][:27]) == (415, "interlaced.mkv: is interlac")


def test_old_clips_make_room(live: Upscaler, movies: Path, folder: Path) -> None:
    source = movies / "everything.mkv"
    limits = Limits(kept_clips=2)
    with running({"hiif-live": live}, [folder / "waves.png"], ServeOptions(port=0, limits=limits)) as client:
        paths = [send(client, source, "scale=2&start=0").headers["location"] for _ in range(4)]
        assert [client.get(path).status_code for path in paths] == [404, 200, 200, 200]


def test_a_clip_goes_on_when_the_disk_has_room_again(
    theatre: Any, live: Upscaler, movies: Path, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    source = movies / "everything.mkv"
    path = send(theatre, source, "scale=2&start=false").headers["location"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # EFBIG in place of ENOSPC
    try:
        assert theatre.post(f"{path}/start").status_code == 202
        until(lambda: theatre.get(path).json()["status"] == "failed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    result = theatre.get(f"{path}/result")
    assert (result.status_code, result.json()["error"]) == (507, "the server's disk is full")
    theatre.post(f"{path}/start")
    until(lambda: theatre.get(path).json()["status"] == "done")
    assert theatre.get(f"{path}/result").content == wanted(source, live, tmp_path)


def test_servers_share_a_folder(live: Upscaler, movies: Path, folder: Path, tmp_path: Path) -> None:
    options, sources = ServeOptions(port=0, cache=tmp_path / "cache"), [folder / "waves.png"]
    with (
        running({"hiif-live": live}, sources, options) as first,
        running({"hiif-live": live}, sources, options) as other,
    ):
        upload = first.post("/v1/pictures", files={"file": ("a.png", sources[0].read_bytes())}).json()["id"]
        assert other.get(f"/v1/pictures/{upload}").json()["name"] == "a.png"
        path = send(first, movies / "long.mp4", "scale=2").headers["location"]
        until(lambda: first.get(path).json()["steps_done"])
        assert other.get(path).json()["status"] == "running"  # how far it is, only the first one knows
        assert other.get(f"/iiif/{first.get(path).json()['samples'][0]}/info.json").status_code == 200
        assert other.delete(path).status_code == 503
        assert other.post(f"{path}/start").status_code == 409
        assert [*_states(other, path)][-1]["status"] == "done"
        assert other.get(f"{path}/result").content == wanted(movies / "long.mp4", live, tmp_path)
        assert other.delete(path).status_code == 204
        assert (first.get(path).status_code, other.delete(f"/v1/pictures/{upload}").status_code) == (404, 204)
        assert first.get(f"/v1/pictures/{upload}").status_code == 404


def test_what_was_read_of_a_clip_before_it_changed_changes_nothing(
    live: Upscaler, movies: Path, folder: Path, tmp_path: Path
) -> None:
    source = movies / "everything.mkv"
    with running({"hiif-live": live}, [folder / "waves.png"]) as client:
        server = client.server
        clips = Clips(server.studio, server.collection, tmp_path, Limits(), Metrics(), lambda: False)
        try:
            shutil.copy(source, tmp_path / "sent.mkv")
            old = clips.add(tmp_path / "sent.mkv", "everything.mkv", {"scale": "2"})
            clips.start(clips.find(old.id), {"scale": "1.5"})
            until(lambda: clips.find(old.id).status == "done")
            with pytest.raises(RequestError, match="started meanwhile"):
                clips.start(old, {})  # It would have the other order's result.
            assert clips.find(old.id).result.read_bytes() == wanted(source, live, tmp_path, 1.5)
            clips.remove(old)
            for _ in range(2):
                with pytest.raises(RequestError, match="no more"):
                    clips.remove(old)
                assert not old.folder.exists()
        finally:
            clips.close()


def test_a_clip_that_ended_its_servers_again_and_again_is_given_up(
    live: Upscaler, movies: Path, folder: Path, tmp_path: Path
) -> None:
    source = movies / "everything.mkv"
    with running({"hiif-live": live}, [folder / "waves.png"]) as client, contextlib.ExitStack() as stack:

        def opened() -> Clips:
            server = client.server
            clips = Clips(server.studio, server.collection, tmp_path, Limits(), Metrics(), lambda: False)
            stack.callback(clips.close)
            return clips

        shutil.copy(source, tmp_path / "sent.mkv")
        job = opened().add(tmp_path / "sent.mkv", "everything.mkv", {"scale": "2"})
        job.status, job.ends = "running", MAX_ENDS
        job.save()
        clips = opened()
        found = until(lambda: clips.find(job.id) if clips.find(job.id).is_over else None)
        assert (found.status, found.error) == (
            "failed", "5 servers ended while they upscaled the clip; start it to try again",
        )  # fmt: skip
        clips.start(found, {})
        until(lambda: clips.find(job.id).status == "done")
        assert clips.find(job.id).result.read_bytes() == wanted(source, live, tmp_path)


def test_a_clip_that_waits_for_the_next_server_has_ended_none(
    live: Upscaler, movies: Path, folder: Path, tmp_path: Path
) -> None:
    options = ServeOptions(port=0, cache=tmp_path)
    with running({"hiif-live": live}, [folder / "waves.png"], options) as client:
        path = send(client, movies / "long.mp4", "scale=2").headers["location"]
        until(lambda: client.get(path).json()["steps_done"])
    (state,) = tmp_path.rglob("clip.json")
    kept = json.loads(state.read_bytes())
    assert (kept["status"], kept["ends"]) == ("queued", 0)


def test_a_clip_that_cannot_be_locked_is_refused_without_a_path(theatre: Any, movies: Path) -> None:
    path = send(theatre, movies / "everything.mkv", "scale=2&start=false").headers["location"]
    (folder,) = theatre.server.arriving.parent.glob(f"clips/{path.rpartition('/')[2]}")
    (folder / ".lock").mkdir()
    for answer in (theatre.post(f"{path}/start"), theatre.delete(path)):
        assert (answer.status_code, answer.json()["error"]) == (500, "the server cannot lock the clip")


class Process:
    """`hiif-deploy serve` as its own process, which keeps its work in a folder."""

    def __init__(self, cache: Path) -> None:
        import httpx

        words = ["serve", "--bundle", "hiif-live", "--port", "0", "--threads", "1", "--cache", str(cache)]
        self.process: Any = subprocess.Popen(
            [sys.executable, "-m", "hiif_deploy.cli", *words], stderr=subprocess.PIPE, text=True
        )
        lines = iter(self.process.stderr.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://[\d.:]+", line)))
        self.client = httpx.Client(base_url=address, timeout=30)

    def end(self, number: int) -> None:
        self.client.close()
        self.process.send_signal(number)
        self.process.wait()
        self.process.stderr.close()


def test_a_killed_server_resumes_its_clips_to_the_same_bytes(live: Upscaler, movies: Path, tmp_path: Path) -> None:
    source, cache = movies / "long.mp4", tmp_path / "cache"
    server = Process(cache)
    try:
        path = send(server.client, source, "scale=4").headers["location"]
        waiting = send(server.client, movies / "everything.mkv", "scale=2").headers["location"]
        until(lambda: server.client.get(path).json()["steps_done"] > 55)
        server.end(signal.SIGKILL)
        assert not list(cache.rglob("result.mp4"))
        server = Process(cache)
        first = next(state for state in _states(server.client, path) if state["steps_done"])
        assert first["steps_done"] >= 48
        assert first["samples"]
        server.end(signal.SIGTERM)  # ends in the middle too, and loses nothing
        assert server.process.returncode == 143
    finally:
        server.end(signal.SIGKILL)
    with running({"hiif-live": live}, [], ServeOptions(port=0, cache=cache)) as client:
        until(lambda: client.get(waiting).json()["status"] == "done")
        assert client.get(f"{path}/result").content == wanted(source, live, tmp_path, 4)
        assert client.get(f"/iiif/{first['samples'][0]}/info.json").status_code == 200
