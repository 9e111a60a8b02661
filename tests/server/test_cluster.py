"""The server on a Ray cluster of this machine: routed by picture, changed without a gap, alive after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiif_deploy import EngineOptions, RenderOptions, Upscaler, open_bundle
from hiif_deploy.cluster.pool import Share
from hiif_deploy.errors import ClusterError
from hiif_deploy.geometry.target import Target
from hiif_deploy.images.decode import decode
from hiif_deploy.images.io import Picture, write_image
from hiif_deploy.server.cluster.front import PART
from hiif_deploy.server.cluster.keys import LENGTH, holder, key_in, route_of
from hiif_deploy.server.options import Limits, ServeOptions
from hiif_deploy.support.extras import EXTRAS
from hiif_deploy.video.options import VideoOptions
from server_client import running

# Ray's own, of what it imports.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")]

REPLICA = b"ray::ServeReplica:hiif-deploy:Replica"
"""How the process of a replica begins its name."""
TILE = "/iiif/waves@4x/0,0,256,256/256,/0/default.png"


def test_requests_of_one_picture_have_one_key() -> None:
    key = route_of("/iiif/waves/info.json", {})
    for path in ("/iiif/waves@8x/info.json", "/iiif/waves@8x@hiif-photo/full/max/0/default.png", "/iiif/w%61ves/x"):
        assert route_of(path, {}) == key
    assert route_of("/v1/jobs", {"picture": "waves"}) == key
    assert route_of("/iiif/other/info.json", {}) != key


def test_ids_that_a_replica_gave_lead_back_to_it() -> None:
    own, route = "0123abcd" + "89abcdef" + 32 * "f", "0123abcd:89abcdef"
    paths = [f"/iiif/u{own}@2x/info.json", f"/v1/jobs/{own}/events", f"/v1/clips/{own}/start", f"/v1/pictures/u{own}"]
    for path in (*paths, f"/iiif/{own}-000012@8x/info.json"):
        assert route_of(path, {}) == route
    assert (key_in(route), holder(route), holder(key_in(route))) == ("0123abcd", "89abcdef", None)
    # A picture of a folder that only looks so.
    assert holder(route_of("/iiif/u0123abcd/info.json", {})) is None


def test_requests_for_any_replica_are_spread() -> None:
    keys = {route_of("/v1/models", {}) for _ in range(20)}
    assert len(keys) > 1
    assert {len(key) for key in keys} == {LENGTH}


@pytest.fixture(scope="module")
def settings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two replicas' settings, on a free port, with a folder of both."""
    for package in EXTRAS["serve-ray"]:
        pytest.importorskip(package, reason="needs the extra serve-ray")
    from hiif_deploy.server.cluster.replica import ReplicaSettings

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine, render = EngineOptions(engine="onnxruntime", threads=1), RenderOptions(max_output_pixels=1 << 44)
    limits = Limits(upload_bytes=6 << 20, uploads_bytes=5_000_000)
    options = ServeOptions(port=port, cache=tmp_path_factory.mktemp("cache"), limits=limits)
    return ReplicaSettings({"hiif-live": open_bundle("hiif-live")}, engine, render, (folder,), options)


@pytest.fixture(scope="module")
def cluster(settings: Any) -> Iterator[Any]:
    """A client of the server on a cluster of two processors."""
    httpx = pytest.importorskip("httpx", reason="needs httpx")
    ray = pytest.importorskip("ray", reason="needs Ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        redeploy(settings)
        with httpx.Client(base_url=f"http://127.0.0.1:{settings.options.port}", timeout=60) as client:
            yield client
    finally:
        ray.shutdown()


def redeploy(settings: Any) -> None:
    from hiif_deploy.server.cluster.deploy import Replicas, deploy

    deploy(settings, Share(2, 1, 0), Replicas(2, 2))


@pytest.fixture(scope="module")
def alone(settings: Any) -> Iterator[Any]:
    """A client of one server with the same settings."""
    (name, bundle), *_ = settings.bundles.items()
    with (
        Upscaler(bundle, engine=settings.engine, options=settings.render) as upscaler,
        running({name: upscaler}, list(settings.sources)) as client,
    ):
        yield client


def test_a_tile_is_that_of_one_server_and_all_of_a_picture_come_from_one_replica(cluster: Any, alone: Any) -> None:
    names = set()
    for column in range(0, 512, 128):
        path = f"/iiif/waves@4x/{column},0,128,256/128,/0/default.png"
        here, there = cluster.get(path), alone.get(path)
        assert (here.status_code, here.headers["content-type"]) == (200, "image/png")
        assert here.content == there.content
        names.add(here.headers["x-replica"])
    assert len(names) == 1
    assert len({cluster.get("/v1/models").headers["x-replica"] for _ in range(40)}) == 2


def test_uploads_and_jobs_are_found_again(cluster: Any, folder: Path) -> None:
    for _ in range(4):
        sent = cluster.post("/v1/pictures", content=(folder / "waves.png").read_bytes())
        assert sent.status_code == 201
        assert cluster.get(f"/iiif/{sent.json()['id']}@2x/full/200,/0/default.png").status_code == 200
        job = cluster.post("/v1/jobs?scale=2", content=(folder / "waves.png").read_bytes()).json()
        with cluster.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
            last = [line for line in events.iter_lines() if line][-1]
        assert '"status": "done"' in last
        assert cluster.get(f"/v1/jobs/{job['id']}/result").content[:4] == b"\x89PNG"


def test_what_is_refused_by_one_server_is_refused_by_the_cluster(cluster: Any) -> None:
    assert cluster.get("/iiif/none/info.json").status_code == 404
    assert cluster.get("/iiif/waves/full/wrong/0/default.png").status_code == 400
    assert cluster.get("/v1/models", headers={"Host": "example.org"}).status_code == 421


@contextlib.contextmanager
def requested_meanwhile(client: Any) -> Iterator[list[Any]]:
    """The responses to requests for a tile, sent one after the other by two threads while the block runs."""
    responses: list[Any] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            responses.append(client.get(TILE))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield responses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def replicas() -> list[int]:
    """Process numbers of the replicas."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(REPLICA):
                found.append(int(path.parent.name))
    return found


def test_a_killed_replica_is_replaced_and_nothing_is_lost(cluster: Any) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("finds processes in /proc")
    expected, before = cluster.get(TILE).content, replicas()
    jobs = [cluster.post("/v1/jobs?scale=1.5&picture=waves").json()["id"] for _ in range(3)]
    data = cluster.get("/iiif/waves/full/max/0/default.png").content
    jobs += [cluster.post("/v1/jobs?scale=1.5", content=data).json()["id"] for _ in range(16)]
    with requested_meanwhile(cluster) as responses:
        for process in before[:1]:
            time.sleep(0.5)
            os.kill(process, signal.SIGKILL)
            until = time.monotonic() + 60
            while process in replicas() or len(replicas()) < len(before):
                assert time.monotonic() < until
                time.sleep(0.1)
        time.sleep(1)
    assert len(responses) > 10
    assert {response.status_code for response in responses} == {200}
    assert {response.content for response in responses} == {expected}
    found: dict[str | None, set[int]] = {}
    for job in jobs:
        tag = holder(route_of(f"/v1/jobs/{job}", {}))
        found.setdefault(tag, set()).add(cluster.get(f"/v1/jobs/{job}").status_code)
    # Those of the replica that lives, though the new one has taken over some of its keys; uploads and clips have files.
    assert sorted(found.values(), key=min) == [{200}, {404}]


def test_a_long_upload_passes_in_parts(cluster: Any, settings: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (1300, 1300, 3), np.uint8)
    write_image(tmp_path / "noise.png", Picture(noise))
    data = (tmp_path / "noise.png").read_bytes()
    assert PART < len(data) < settings.options.limits.upload_bytes
    sent = cluster.post("/v1/pictures", files={"file": ("noise.png", data)})
    assert sent.status_code == 201, sent.text
    tile = cluster.get(f"/iiif/{sent.json()['id']}/0,0,300,200/max/0/default.png")
    assert np.array_equal(decode(tile.content, 1 << 20).pixels, noise[:200, :300])

    def parts(count: int) -> Iterator[bytes]:  # whose length nobody knows before
        for _ in range(count):
            yield bytes(1 << 20)

    assert cluster.post("/v1/pictures", content=parts(5)).status_code == 415
    assert cluster.post("/v1/pictures", content=parts(8)).status_code == 413
    with begun_upload(settings.options.port, bytes(100), "Origin: http://example.org") as sending:
        assert sending.recv(1 << 10).startswith(b"HTTP/1.1 403")  # The rest of the body does not come.
    with begun_upload(settings.options.port, bytes(PART), "Accept: */*"):
        assert bodies(settings, 1)
    assert not bodies(settings, 0)  # Its client has left.


def test_a_long_upload_to_a_full_disk_is_refused_and_leaves_nothing(cluster: Any, settings: Any) -> None:
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits other processes")
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in replicas()}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, hard))  # EFBIG in place of ENOSPC
    try:
        refused = cluster.post("/v1/pictures", content=bytes(PART + 1))
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    assert (refused.status_code, refused.json()["error"]) == (507, "the server's disk is full")
    assert not list(settings.options.cache.rglob("*.body"))


@contextlib.contextmanager
def begun_upload(port: int, part: bytes, header: str) -> Iterator[socket.socket]:
    """The connection of a client that has sent the first part of a picture."""
    lines = f"Host: 127.0.0.1:{port}", f"Content-Length: {len(part) + 1}", header
    head = "\r\n".join(("POST /v1/pictures HTTP/1.1", *lines, "", ""))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sending:
        sending.sendall(head.encode() + part)
        yield sending


def bodies(settings: Any, count: int) -> list[Path]:
    """The bodies of uploads that arrive, when there are so many, or after a while."""
    until = time.monotonic() + 20
    while len(found := list(settings.options.cache.rglob("*.body"))) != count and time.monotonic() < until:
        time.sleep(0.1)
    return found


def test_a_clip_goes_on_where_its_replica_is_killed(cluster: Any, settings: Any, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    from clips import X264, Video, plain
    from hiif_deploy.video.plan import plan_video
    from hiif_deploy.video.run import make_video

    source = tmp_path / "long.mp4"
    plain(source, Video(frames=110, size=(40, 64), options=(*X264.items(), ("g", "50"))), audio_ms=1000)
    sent = cluster.post("/v1/clips?name=long.mp4&scale=4", content=source.read_bytes())
    assert sent.status_code == 202, sent.text
    path, ends = sent.headers["location"], time.monotonic() + 120
    while cluster.get(path).json()["steps_done"] < 55:
        assert time.monotonic() < ends
        time.sleep(0.05)
    holding = [pid for pid in replicas() if holds(pid, settings.options.cache / "clips" / sent.json()["id"] / ".lock")]
    assert len(holding) == 1
    os.kill(holding[0], signal.SIGKILL)
    seen = []
    while (state := cluster.get(path).json())["status"] != "done":
        assert time.monotonic() < ends, state
        seen.append(state["steps_done"])
        time.sleep(0.05)
    assert min(done for done in seen if done) >= 48  # The journal's segments are not made again.
    with Upscaler("hiif-live", engine=settings.engine, options=settings.render) as upscaler:
        plan = plan_video(source, tmp_path / "wanted.mp4", Target(scale=4), VideoOptions())
        make_video(plan, upscaler, tmp_path / "wanted.mp4", style="none")
    assert cluster.get(f"{path}/result").content == (tmp_path / "wanted.mp4").read_bytes()
    assert cluster.get(f"/iiif/{state['samples'][0]}/info.json").status_code == 200


def holds(process: int, path: Path) -> bool:
    """Whether a process has a file open."""
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(descriptor.readlink())
    return path in found


def test_a_model_changes_replica_by_replica_without_a_gap(cluster: Any, settings: Any) -> None:
    other = dataclasses.replace(settings, bundles={"hiif-video": open_bundle("hiif-video")})
    with requested_meanwhile(cluster) as responses:
        redeploy(other)
        time.sleep(1)
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 2
    assert cluster.get("/v1/models").json()["models"][0]["name"] == "hiif-video"


def test_another_address_is_refused(cluster: Any, settings: Any) -> None:
    port = settings.options.port
    with pytest.raises(ClusterError, match=r"nothing responds on 127.0.0.1:9 .*another address"):
        redeploy(dataclasses.replace(settings, options=ServeOptions(port=9)))
    assert cluster.get("/health/live", timeout=60).status_code == 200, port
