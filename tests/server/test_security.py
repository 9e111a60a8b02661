"""Who may use a server: hosts, origins and tokens."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy import MissingExtraError, OptionError, Upscaler
from hiif_deploy.server.app import listen, open_server
from hiif_deploy.server.options import ServeOptions
from hiif_deploy.support import extras
from server_client import running

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def guarded(live: Upscaler, folder: Path) -> Iterator[Any]:
    with running({"hiif-live": live}, [folder], ServeOptions(port=0, token=TOKEN)) as client:
        yield client


def test_without_a_token_nothing_but_health_is_told(guarded: Any) -> None:
    for path in ("/iiif/waves/info.json", "/metrics", "/v2", "/", "/nowhere"):
        answer = guarded.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get("/health/live").status_code == 200
    assert guarded.get("/iiif/waves/info.json", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert guarded.get("/iiif/waves/info.json", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_browser_gets_the_token_from_a_link(guarded: Any) -> None:
    answer = guarded.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly; SameSite=Strict" in answer.headers["set-cookie"]
    cookie = answer.headers["set-cookie"].partition(";")[0]
    guarded.cookies.clear()
    assert guarded.get("/iiif/waves/info.json", headers={"Cookie": cookie}).status_code == 200
    others = f'prefs={{"a": 1}}; a[b]=1; msg=hello world; {cookie}'
    assert guarded.get("/iiif/waves/info.json", headers={"Cookie": others}).status_code == 200
    assert guarded.get("/?token=wrong").status_code == 401


def test_on_loopback_other_host_names_are_refused(site: Any) -> None:
    for host, status in {"evil.example": 421, "evil.example:80": 421, "localhost:9": 200, "[::1]:80": 200}.items():
        assert site.get("/iiif/waves/info.json", headers={"Host": host}).status_code == status


def test_pages_of_other_origins_may_not_send(site: Any, live: Upscaler, folder: Path) -> None:
    assert site.post("/iiif/waves", headers={"Origin": "https://evil.example"}).status_code == 403
    assert site.post("/iiif/waves", headers={"Origin": str(site.base_url).rstrip("/")}).status_code == 405
    options = ServeOptions(port=0, cors=("https://good.example",))
    with running({"hiif-live": live}, [folder], options) as client:
        answer = client.options("/iiif/waves/full/max/0/default.jpg", headers={"Origin": "https://good.example"})
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        assert client.post("/iiif/waves", headers={"Origin": "https://good.example"}).status_code == 405
        # A cache must not give a page of another origin the response to a request that named none.
        image = client.get("/iiif/waves/full/max/0/default.jpg").headers
        assert ("access-control-allow-origin" in image, image["vary"]) == (False, "Origin")
        described = client.get("/iiif/waves/info.json").headers
        assert (described["access-control-allow-origin"], described["vary"]) == ("*", "Accept")


def test_every_response_has_the_headers_that_protect_pages(site: Any) -> None:
    for path in ("/iiif/waves/info.json", "/nowhere"):
        headers = site.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_health_and_metadata_are_those_of_the_open_inference_protocol(site: Any) -> None:
    for path in ("/health/ready", "/v2/health/live", "/v2/health/ready", "/v2/models/hiif-live/ready"):
        assert site.get(path).status_code == 200
    assert set(site.get("/v2").json()) == {"name", "version", "extensions"}
    model = site.get("/v2/models/hiif-live").json()
    assert (model["name"], model["inputs"][0]["datatype"]) == ("hiif-live", "UINT8")
    assert site.get("/v2/models/none").status_code == 404


def test_metrics_count_responses_by_route(site: Any) -> None:
    site.get("/iiif/waves/info.json")
    text = site.get("/metrics").text
    assert 'hiif_requests_total{route="/iiif/{id}/info.json",status="200"}' in text
    assert "hiif_tile_queue 0.0" in text


def test_an_address_in_use_and_a_cache_that_cannot_be_are_refused(live: Upscaler, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="needs the extra serve")
    with listen(ServeOptions(port=0)) as listening, pytest.raises(OptionError, match="in use"):
        listen(ServeOptions(port=listening.getsockname()[1]))
    (tmp_path / "file").touch()
    options = ServeOptions(port=0, cache=tmp_path / "file")
    with pytest.raises(OptionError, match="cannot be written"), open_server({"hiif-live": live}, [folder], options):
        pass


def test_a_missing_extra_is_named(live: Upscaler, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "uvicorn" else name)
    with (
        pytest.raises(MissingExtraError, match=r"uvicorn is not installed; add it with: .*\[serve\]"),
        open_server({"hiif-live": live}, [folder], ServeOptions()),
    ):
        pass


def test_the_command_serves_the_samples_until_it_is_terminated() -> None:
    pytest.importorskip("starlette", reason="needs the extra serve")
    words = [sys.executable, "-m", "hiif_deploy.cli", "serve", "--port", "0", "--bundle", "hiif-live"]
    with subprocess.Popen([*words, "--engine", "onnxruntime"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            address = line.rpartition(" ")[2].strip()
            with urllib.request.urlopen(f"{address}iiif/coffee@2x/0,0,64,64/max/0/default.png") as answer:
                assert answer.headers["content-type"] == "image/png"
            process.terminate()
            rest = process.stderr.read()
        finally:
            process.kill()
    assert "3 pictures, model hiif-live: http://127.0.0.1:" in line
    assert (process.returncode, rest) == (143, "hiif-deploy: error: terminated; no half-written file was left\n")
