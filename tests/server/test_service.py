"""Upscaling over HTTP: the bytes of the command line, bounded, with progress, and stopped when nobody wants it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy import Upscaler
from hiif_deploy.cli import main
from hiif_deploy.images.io import read_image
from hiif_deploy.server.openapi import document
from hiif_deploy.server.options import Limits, ServeOptions
from server_client import opened, running


@pytest.fixture(scope="module")
def wanted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the command line makes of the transparent picture."""
    path = tmp_path_factory.mktemp("made") / "clear.png"
    words = ["--bundle", "hiif-live", "--scale", "2.5", "--threads", "1", "-q"]
    with pytest.raises(SystemExit) as done:
        main(["upscale", str(folder / "clear.png"), "-o", str(path), *words])
    assert done.value.code == 0
    return path.read_bytes()


def test_a_picture_comes_back_with_the_bytes_of_the_command_line(site: Any, folder: Path, wanted: bytes) -> None:
    sent = (folder / "clear.png").read_bytes()
    raw = site.post("/v1/upscale?scale=2.5", content=sent)
    assert (raw.status_code, raw.headers["content-type"]) == (200, "image/png"), raw.text
    form = site.post("/v1/upscale", files={"file": ("../../é/clear.png", sent)}, data={"scale": "2.5"})
    named = site.post("/v1/upscale?scale=2.5&picture=clear")
    assert raw.content == form.content == named.content == wanted
    assert form.headers["content-disposition"] == "attachment; filename*=UTF-8''clear_x2.5.png"


def test_a_job_reports_its_progress_until_its_result_is_there(site: Any, wanted: bytes) -> None:
    answer = site.post("/v1/jobs?scale=2.5&picture=clear")
    assert answer.status_code == 202
    path = answer.headers["location"]
    events = [json.loads(line[6:]) for line in site.get(f"{path}/events").text.splitlines() if line]
    assert events[-1]["status"] == "done"
    assert events[-1]["steps_done"] == events[-1]["steps"] > 0
    assert site.get(path).json()["target"] == {"width": 325, "height": 225}
    result = site.get(f"{path}/result")
    assert (result.content, result.headers["content-type"]) == (wanted, "image/png")
    assert result.headers["cache-control"] == "private, no-cache"
    assert site.delete(path).status_code == 204
    assert site.get(path).status_code == 404


def test_an_upload_zooms_and_is_known_by_its_id_alone(site: Any, folder: Path) -> None:
    sent = (folder / "waves.png").read_bytes()
    answer = site.post("/v1/pictures", files={"file": ("a.png", sent)}).json()
    assert (answer["name"], answer["width"], answer["height"]) == ("a.png", 130, 90)
    assert site.get(f"/iiif/{answer['id']}@8x/info.json").json()["width"] == 1040
    listed = [picture["id"] for picture in site.get("/v1/pictures").json()["pictures"]]
    assert listed == ["broken", "clear", "deep-grey-16", "waves"]
    assert site.delete(f"/v1/pictures/{answer['id']}").status_code == 204
    assert site.get(f"/iiif/{answer['id']}/info.json").status_code == 404
    assert site.delete("/v1/pictures/waves").status_code == 403


def test_a_plan_tells_size_memory_and_time(site: Any) -> None:
    plan = site.get("/v1/plan?picture=waves&max_side=520&model=hiif-attention").json()
    assert (plan["source"], plan["target"]) == ({"width": 130, "height": 90}, {"width": 520, "height": 360})
    assert plan["seconds"] > 0


@pytest.mark.parametrize(
    ("path", "content", "status", "reason"),
    [
        ("/v1/upscale?scale=2", b"no picture", 415, "not a picture file"),
        ("/v1/upscale?scale=2", b"", 400, "no body"),
        ("/v1/upscale", b"x", 400, "exactly one of"),
        ("/v1/upscale?scale=0.5", b"x", 400, "at least 1"),
        ("/v1/upscale?scale=2&size=4x4&width=1", b"x", 400, "leave out"),
        ("/v1/upscale?scale=2&model=none", b"x", 404, "models: hiif-live, hiif-attention"),
        ("/v1/upscale?scale=1_0", b"x", 400, "expected a number"),
        ("/v1/upscale?scale=%EF%BC%94", b"x", 400, "expected a number"),  # a full-width 4
        ("/v1/upscale?scale=%D9%A2", b"x", 400, "expected a number"),  # an Arabic 2
        ("/v1/upscale?scale=+2", b"x", 400, "expected a number"),
        ("/v1/upscale?scale=2%0A", b"x", 400, "expected a number"),
        ("/v1/upscale?scale=1_0%25", b"x", 400, "expected a number"),
        ("/v1/upscale?scale=nan", b"x", 400, "a finite number"),
        ("/v1/upscale?size=4_0x40", b"x", 400, "expected WIDTHxHEIGHT"),
        ("/v1/upscale?size=%D9%A2x40", b"x", 400, "expected WIDTHxHEIGHT"),
        ("/v1/upscale?size=40x40+", b"x", 400, "expected WIDTHxHEIGHT"),
        ("/v1/upscale?width=1_000", b"x", 400, "whole number"),
        ("/v1/upscale?max_side=%D9%A2", b"x", 400, "whole number"),
        ("/v1/upscale?scale=2&quality=9_0", b"x", 400, "whole number"),
        ("/v1/upscale?scale=2&lossless=maybe", b"x", 400, "true or false"),
        ("/v1/upscale?scale=2&format=exe", b"x", 400, "expected one of png"),
        ("/v1/upscale?scale=2&output=/etc/passwd", b"x", 400, "unknown parameters: output"),
        ("/v1/upscale?scale=2&picture=../waves", b"", 404, "no picture of that id"),
        ("/v1/upscale?scale=2&picture=broken", b"", 415, "broken.png: "),
        ("/v1/upscale?width=64&picture=waves", b"", 400, "below 1"),
        ("/v1/upscale?scale=200&picture=waves", b"", 413, "pixels would come out"),
        ("/v1/jobs/none/result", b"", 405, "Method Not Allowed"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    site: Any, path: str, content: bytes, status: int, reason: str
) -> None:
    answer = site.post(path, content=content)
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["error"]
    assert "/tmp" not in answer.json()["error"]


def test_a_form_without_a_file_is_refused(site: Any) -> None:
    answer = site.post("/v1/pictures", files={"scale": (None, "2")})
    assert (answer.status_code, answer.json()["error"][:20]) == (400, "the form has no file")
    broken = site.post("/v1/pictures", content=b"--x", headers={"Content-Type": "multipart/form-data"})
    assert broken.status_code == 400


def test_the_document_describes_every_route(site: Any) -> None:
    assert site.get("/openapi.json").json() == json.loads(json.dumps(document()))
    described = {(path, method.upper()) for path, found in document()["paths"].items() for method in found}
    served = {
        (route.path, method)
        for route in site.server.routes
        for method in route.methods - {"HEAD"}
        if route.path != "/" and not route.path.startswith(("/iiif/", "/page/"))
    }
    assert described == served


@pytest.fixture(scope="module")
def tight(live: Upscaler, folder: Path) -> Iterator[Any]:
    """A server with small limits, and a slow model."""
    limits = Limits(upload_bytes=1 << 20, upload_seconds=1, jobs=0, finished_jobs=1, seconds=20)
    slow = opened(Path(__file__).resolve().parents[1] / "models" / "hiif-attention")
    with slow, running({"hiif-live": live, "slow": slow}, [folder], ServeOptions(port=0, limits=limits)) as client:
        yield client


def test_uploads_beyond_a_limit_end_early(tight: Any) -> None:
    assert tight.post("/v1/upscale?scale=2", content=bytes(1_048_577)).status_code == 413

    def parts() -> Iterator[bytes]:  # of unknown length
        for _ in range(3):
            yield bytes(500_000)

    assert tight.post("/v1/pictures", content=parts()).status_code == 413
    assert tight.post("/v1/pictures", files={"file": ("a.png", bytes(1_048_577))}).status_code == 413
    with socket.create_connection((tight.base_url.host, tight.base_url.port)) as slow:
        slow.sendall(b"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_memory_is_planned_before_the_work(live: Upscaler, folder: Path) -> None:
    limits = Limits(job_bytes=1 << 20)
    with running({"hiif-live": live}, [folder], ServeOptions(port=0, limits=limits)) as client:
        answer = client.post("/v1/upscale?scale=4&picture=waves")
    assert (answer.status_code, "MiB of memory" in answer.json()["error"]) == (413, True)


def test_a_job_that_nobody_wants_any_more_is_stopped(tight: Any) -> None:
    path = "/v1/jobs?scale=12&model=slow&picture=waves"
    job = tight.post(path).headers["location"]
    refused = tight.post(path)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    assert tight.get("/health/ready").status_code == 503
    assert tight.get(f"{job}/result").status_code == 409
    tight.delete(job)
    assert '"status": "cancelled"' in tight.get(f"{job}/events").text.splitlines()[-2]
    with pytest.raises(Exception, match="timed out"):
        tight.post(path.replace("jobs", "upscale"), timeout=0.5)
    until = time.monotonic() + 10
    while tight.get("/health/ready").status_code != 200 and time.monotonic() < until:
        time.sleep(0.05)
    assert 'hiif_requests_total{route="/v1/upscale",status="499"} 1.0' in tight.get("/metrics").text
    assert tight.post("/v1/upscale?scale=2&picture=waves").status_code == 200


def test_jobs_that_wait_are_cancelled_at_once(folder: Path) -> None:
    slow = opened(Path(__file__).resolve().parents[1] / "models" / "hiif-attention")
    options = ServeOptions(port=0, limits=Limits(jobs=3, seconds=60))
    with slow, running({"slow": slow}, [folder], options) as client:
        path = "/v1/jobs?scale=12&model=slow&picture=waves"
        first, *waiting = [client.post(path).headers["location"] for _ in range(4)]
        assert client.post(path).status_code == 503
        for job in waiting:
            client.delete(job)
            assert '"status": "cancelled"' in client.get(f"{job}/events").text
        assert client.get(first).json()["status"] in ("queued", "running")
        again = client.post(path)
        assert again.status_code == 202
        for job in (first, again.headers["location"]):
            client.delete(job)


def test_tiles_that_nobody_waits_for_make_room_for_others(tight: Any) -> None:
    with pytest.raises(Exception, match="timed out"):
        tight.get("/iiif/waves@slow/full/^3000,/0/default.png", timeout=0.3)
    assert tight.get("/iiif/waves@2x/full/max/0/default.png").status_code == 200
    text = tight.get("/metrics").text
    assert 'hiif_requests_total{route="/iiif/{id}/{region}/{size}/{rotation}/{last}",status="499"} 1.0' in text
    assert 'hiif_stage_seconds_count{stage="render"} 1.0' in text  # The other one has not ended.


def test_of_finished_jobs_the_last_ones_are_kept(tight: Any) -> None:
    paths = []
    for _ in range(3):
        paths.append(tight.post("/v1/jobs?scale=2&picture=waves").headers["location"])
        tight.get(f"{paths[-1]}/events")
    assert [tight.get(f"{path}/result").status_code for path in paths] == [404, 404, 200]


def test_work_that_takes_too_long_is_ended(live: Upscaler, folder: Path) -> None:
    limits = Limits(seconds=0.01)
    with running({"hiif-live": live}, [folder], ServeOptions(port=0, limits=limits)) as client:
        answer = client.post("/v1/upscale?scale=16&picture=waves")
    assert (answer.status_code, "the limit of this server" in answer.json()["error"]) == (504, True)


def test_many_clients_at_once_all_have_an_answer(site: Any, folder: Path) -> None:
    paths = [f"/iiif/waves@{factor}x/0,0,{side},64/max/0/default.png" for factor in (2, 4) for side in range(40, 60)]
    sent = (folder / "waves.png").read_bytes()

    def one(number: int) -> int:
        if number % 20 == 0:
            return int(site.post("/v1/upscale?scale=2", content=sent).status_code)
        return int(site.get(paths[number % len(paths)]).status_code)

    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(one, range(200))) == {200}


def test_results_keep_their_metadata(site: Any, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x013B] = "Ada"
    Image.new("RGB", (20, 10), "teal").save(tmp_path / "a.jpg", exif=exif)
    made = site.post("/v1/upscale?scale=2", files={"file": ("a.jpg", (tmp_path / "a.jpg").read_bytes())})
    (tmp_path / "b.jpg").write_bytes(made.content)
    assert read_image(tmp_path / "b.jpg").exif is not None
    assert made.headers["content-type"] == "image/jpeg"


def test_a_full_disk_is_named_and_leaves_nothing(live: Upscaler, folder: Path) -> None:
    resource = pytest.importorskip("resource")
    with running({"hiif-live": live}, [folder]) as client:
        sent = read_image(folder / "waves.png").pixels.tobytes()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Files of this process may not grow beyond a limit, as on a full disk (EFBIG in place of ENOSPC).
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            upload = client.post("/v1/pictures", content=sent)
            result = client.post("/v1/upscale?scale=4&picture=waves")
            tile = client.get("/iiif/waves@8x/0,0,512,512/max/0/default.png")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (upload.status_code, result.status_code, tile.status_code) == (507, 507, 200)
        assert "/tmp" not in upload.text + result.text
        assert client.post("/v1/upscale?scale=2&picture=waves").status_code == 200


def test_an_upload_that_breaks_off_leaves_nothing(site: Any) -> None:
    with socket.create_connection((site.base_url.host, site.base_url.port)) as broken:
        broken.sendall(b"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        time.sleep(0.2)
    until = time.monotonic() + 5
    line = 'hiif_requests_total{route="/v1/pictures",status="499"}'
    while line not in site.get("/metrics").text and time.monotonic() < until:
        time.sleep(0.05)
    assert line in site.get("/metrics").text
