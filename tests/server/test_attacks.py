"""What a hostile client sends is refused, without an error of the server's and without harm to others."""

from __future__ import annotations

import random
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy import Upscaler
from hiif_deploy.images.metadata import PNG_SIGNATURE, png_chunk
from hiif_deploy.server import app, connection
from hiif_deploy.server.options import Limits, ServeOptions
from server_client import running


def connected(site: Any) -> socket.socket:
    """A bare connection."""
    return socket.create_connection((site.base_url.host, site.base_url.port), timeout=20)


def sent(site: Any, data: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    with connected(site) as stream:
        stream.sendall(data)
        answer = b""
        with suppress(ConnectionResetError):  # where the server has not read all
            while part := stream.recv(1 << 16):
                answer += part
        return answer


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request after which the connection is closed."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "\r\n"]).encode() + body


def status(answer: bytes) -> int:
    """Of the first response."""
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer[9:12])


IDS = [
    "..%2f..%2fetc%2fpasswd", "..%252f..%252fetc%252fpasswd", "%2e%2e", "waves%00", "waves%2F..", "%C0%AF", "%ED%A0%80",
    "waves%0d%0aX-Evil:1", "w%E2%80%AEsevaw", "wav%C3%A9s", "%5C%5Chost%5Cshare", "C:%5Cwaves", "~root", "waves;x=1",
    "waves@", "@", "waves@@8x", "waves@8x@..", "waves@8x@%2fetc", "%", "%zz", "x" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("id_", IDS, ids=range(len(IDS)))
def test_ids_are_looked_up_and_never_become_paths(site: Any, id_: str) -> None:
    for path in (f"/iiif/{id_}/info.json", f"/iiif/{id_}/full/max/0/default.jpg", f"/v1/plan?scale=2&picture={id_}"):
        answer = sent(site, request(f"GET {path}"))
        assert status(answer) in (400, 404), path
        assert not any(word in answer.lower() for word in (b"x-evil", b"root:", b"/tmp", b"traceback"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request(f"GET /iiif/{'a' * 60_000}/info.json"), 404),
        (request("GET /iiif/" + "a/" * 20_000), 404),
        (request("GET /v1/plan?scale=2&picture=" + "a" * 60_000), 404),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n\r\n", 421),
        (request("POST /v1/jobs?scale=2&picture=waves", "Origin: http://["), 403),
        (request("GET /iiif/waves/info.json", "If-None-Match: ,,\"", "Cookie: =;;=", "Authorization: \xe9"), 200),
        (request("CONNECT localhost:22"), 404),
        (request("TRACE /health/live"), 405),
        (request("PUT /v1/pictures/waves"), 405),
        (request("OPTIONS /v1/pictures"), 405),
        (request("GET http://127.0.0.1:22/"), 404),
    ],
    ids=range(16),
)  # fmt: skip
def test_requests_that_are_none_are_refused(site: Any, data: bytes, expected: int) -> None:
    assert status(sent(site, data)) == expected


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "], ids=["path", "header"])
def test_headers_without_end_are_not_kept(site: Any, start: bytes) -> None:
    answer = sent(site, start + b"a" * 1_000_000)
    assert not answer or status(answer) == 400


HIDDEN = b"GET /iiif/clear/info.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        f"Content-Length: {len(HIDDEN)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: +5\r\n\r\n",
        "Content-Length: -1\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_a_body_of_unclear_length_hides_no_second_request(site: Any, headers: str) -> None:
    first = f"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\n{headers}".encode()
    answer = sent(site, first + HIDDEN)
    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1


def test_parameters_are_numbers_or_refused(site: Any) -> None:
    rng = random.Random(11)
    names = ("scale", "size", "width", "height", "max_side", "quality", "format", "model")
    alphabet = "0123456789.,xe+-/%infa²٣ é"
    for _ in range(300):
        given = {name: "".join(rng.choices(alphabet, k=rng.randint(1, 8))) + "!" for name in rng.sample(names, 2)}
        answer = site.get("/v1/plan", params={"picture": "waves", "scale": "2", **given})
        assert answer.status_code in (400, 404), (given, answer.text)
    for scale in ("nan", "inf", "-inf", "1e999", "1e-999", "0", "-2", "0x2", "9" * 400):
        assert site.get("/v1/plan", params={"picture": "waves", "scale": scale}).status_code in (400, 413), scale


def test_reading_methods_and_ranges(site: Any) -> None:
    tile = "/iiif/waves@2x/0,0,64,64/max/0/default.png"
    whole, head = site.get(tile), site.head(tile)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", whole.headers["etag"])
    assert head.headers["content-length"] == str(len(whole.content))
    job = site.post("/v1/jobs?scale=2&picture=waves").headers["location"]
    site.get(f"{job}/events")
    result = site.get(f"{job}/result").content
    part = site.get(f"{job}/result", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, result[10:20])
    many = "bytes=" + ",".join("0-" for _ in range(5000))
    for text in ("bytes=9999999999-", "bytes=5-1", "bytes=a-b", "bytes=-0", "lines=1-2", many):
        answer = site.get(f"{job}/result", headers={"Range": text})
        assert answer.status_code in (200, 206, 400, 416), text
        assert len(answer.content) <= 2 * len(result)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of zeros for its first pixels, with chunks before them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compress(bytes(min((3 * width + 1) * height, 1000)))
    parts = [png_chunk(kind, data) for kind, data in (*chunks, (b"IDAT", rows), (b"IEND", b""))]
    return PNG_SIGNATURE + header + b"".join(parts)


BOMB = zlib.compress(bytes(1 << 28), 9)
"""256 MiB, as a quarter of a mebibyte."""


def test_small_files_that_would_become_large_are_refused_or_cost_little(site: Any) -> None:
    for data in (png(60_000, 60_000), png(2**31 - 1, 1), png(1, 2**31 - 1), png(0, 0)):
        assert site.post("/v1/pictures", content=data).status_code == 415
    text = (b"zTXt", b"a\0\0" + BOMB), (b"iTXt", b"a\0\1\0\0\0" + BOMB), (b"iCCP", b"a\0\0" + BOMB)
    for chunk in text:
        began = time.monotonic()
        answer = site.post("/v1/upscale?scale=2", content=png(8, 8, chunk))
        assert answer.status_code in (200, 415), answer.text
        assert len(answer.content) < 10_000
        assert time.monotonic() - began < 5


def test_forms_that_are_bombs_are_refused(site: Any) -> None:
    fields = b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n' % n for n in range(500))
    large = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + bytes(3 << 20) + b"\r\n"
    header = b"--x\r\n" + b"A: b\r\n" * 50_000 + b"\r\n\r\n"
    for body in (fields, large, header, b"--x\r\n", b"--y\r\n\r\n\r\n--y--"):
        kind = {"Content-Type": "multipart/form-data; boundary=x; charset=none"}
        assert site.post("/v1/pictures", content=body + b"--x--\r\n", headers=kind).status_code == 400


def test_jobs_that_were_accepted_are_done(live: Upscaler, folder: Path) -> None:
    options = ServeOptions(port=0, limits=Limits(jobs=2))
    with running({"hiif-live": live}, [folder], options) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs?scale=4&picture=waves"), range(16)))
        accepted = [answer.headers["location"] for answer in answers if answer.status_code == 202]
        assert {answer.status_code for answer in answers} == {202, 503}
        for job in accepted:
            client.get(f"{job}/events")
            assert client.get(job).json()["status"] == "done"


def read_steadily(site: Any, path: str) -> tuple[int, float]:
    """Bytes of a response whose client reads for longer than the server waits for one that reads nothing; seconds."""
    with connected(site) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        data, began = stream.recv(1 << 12), time.monotonic()
        while part := stream.recv(1 << 16):
            data += part
            time.sleep(len(part) / 1_500_000)
    return len(data.partition(b"\r\n\r\n")[2]), time.monotonic() - began


def test_slow_clients_are_left_and_harm_no_others(
    live: Upscaler, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(connection, "STALLED_SECONDS", 0.5)
    monkeypatch.setattr(app, "KEEP_ALIVE", 1)
    options = ServeOptions(port=0, limits=Limits(upload_seconds=0.5))
    with running({"hiif-live": live}, [folder], options) as client, ExitStack() as stack:
        body = b"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        begun = [b"", b"GET / HT", b"GET / HTTP/1.1\r\nX: 1\r\n", body, body + b"a"]
        slow = [stack.enter_context(connected(client)) for _ in range(60)]
        for number, stream in enumerate(slow):
            stream.sendall(begun[number % len(begun)])
        # It asks for more than the system's buffers hold, and reads nothing.
        deaf = stack.enter_context(connected(client))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /iiif/waves@bicubic/full/^2600,1800/0/default.tif HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began = time.monotonic()
        assert client.get("/iiif/waves/info.json").status_code == 200
        assert time.monotonic() - began < 2
        large = "/iiif/waves@bicubic/full/^5200,3600/0/default.tif"
        count, seconds = read_steadily(client, large)
        assert seconds > 2 * connection.STALLED_SECONDS
        assert count == len(client.get(large).content)

        answers = [stream.recv(100) for stream in slow]

        assert {answer[:12] for answer in answers} == {b"", b"HTTP/1.1 408"}
        until = time.monotonic() + 20
        while len(client.uvicorn.server_state.connections) > 1 and time.monotonic() < until:
            with suppress(OSError):
                slow[4].sendall(b"a")  # of the body that was refused
            time.sleep(0.05)
        assert len(client.uvicorn.server_state.connections) <= 1


@contextmanager
def serving(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and its address."""
    command = [sys.executable, "-m", "hiif_deploy.cli", "serve", "--port", "0", "--bundle", "hiif-live", *words]
    with subprocess.Popen([*command, "--engine", "onnxruntime"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield process, next(line.split()[-1] for line in process.stderr if "http://" in line)
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_server_leaves_no_damaged_tile(folder: Path, tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx", reason="needs httpx")
    pytest.importorskip("starlette", reason="needs the extra serve")
    words = [str(folder / "waves.png"), "--cache", str(tmp_path)]
    paths = [
        f"iiif/waves@8x/{x},{y},128,128/max/0/default.png" for x in range(0, 1040, 128) for y in range(0, 720, 128)
    ]

    def get(address: str, path: str) -> bytes:
        try:
            return bytes(httpx.get(address + path, timeout=30).content)
        except httpx.TransportError:
            return b""

    with serving(*words) as (process, address), ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(get, address, path) for path in paths]
        answers[len(answers) // 3].result()
        process.send_signal(signal.SIGKILL)
        before = {path: answer.result() for path, answer in zip(paths, answers, strict=True)}
    kept = sorted((tmp_path / "tiles").glob("*.tile"))
    assert kept
    kept[0].write_bytes(kept[0].read_bytes()[:-7])  # as after a power failure
    (tmp_path / "tiles" / ".0123.tmp").write_bytes(b"half")
    with serving(*words) as (_, address):
        after = {path: get(address, path) for path in paths}
    answered = [path for path in paths if before[path]]
    assert 0 < len(answered) < len(paths)
    assert [path for path in answered if after[path] != before[path]] == []
    assert all(after[path].startswith(PNG_SIGNATURE) for path in paths)
    assert not list((tmp_path / "tiles").glob(".*.tmp"))
