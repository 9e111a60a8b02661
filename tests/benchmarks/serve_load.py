"""`hiif-deploy serve` under load: many clients at once, and its throughput beside the bare engine's.

    python tests/benchmarks/serve_load.py [--seconds 120] [--clients 200] [--rounds 5] [--bundle hiif-live]

A real server process on loopback. Clients send requests one after the other, of all kinds in a fixed mixture, and
every response must have the status that its request should have. 503 of a full queue is counted apart; its client
waits a second. Then rounds of 1-megapixel pictures through the service and through the engine, in turns.
Exits with 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.geometry.target import Target
from hiif_deploy.images.io import Picture, read_image, write_image
from hiif_deploy.images.samples import sample
from hiif_deploy.pictures.batch import upscale_picture
from hiif_deploy.upscaler import Upscaler

SIZES = {"small": (120, 160), "wide": (200, 640), "large": (720, 960)}
"""Name of a picture → (height, width)."""
MEGAPIXEL = (1000, 1000)
BAD = {
    "/iiif/none/info.json": 404, "/iiif/small/full/9999,/0/default.jpg": 400, "/iiif/small/a/max/0/default.jpg": 400,
    "/iiif/small/full/max/45/default.jpg": 400, "/iiif/small@99x/info.json": 400, "/v1/jobs/none": 404, "/none": 404,
    "/v1/plan?scale=2": 400, "/iiif/small@16x/full/^999999,/0/default.jpg": 400,
}  # fmt: skip
TILE = 512


@dataclass
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection that is kept, with as little work per request as possible: clients share the server's cores."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Return the response. OSError or EOFError where there is none."""
        # The server closes connections that are idle for ten seconds.
        if self._streams is None or time.monotonic() - self._used > 5:
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "\r\n"]).encode() + body)
        await writer.drain()
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()[:-1]
        answered = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        content = await _body(reader, answered)
        self._used = time.monotonic()
        if answered.get("connection") == "close":
            self.close()
        return Answer(int(first.split()[1]), answered, content)

    def close(self) -> None:
        """Leave the server."""
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


@dataclass
class Tally:
    """What all clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Kind of request → seconds of every response that it should have."""
    busy: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Kind of request → responses of a full queue."""
    lost: list[str] = field(default_factory=list)
    """Requests without a response, or with another than they should have."""


class Client:
    """One client with a connection, a random order of requests, and the ETags of what it got."""

    def __init__(self, seed: int, port: int, small: bytes, tally: Tally) -> None:
        self._random = random.Random(seed)
        self._connection = Connection(port)
        self._small = small
        self._tally = tally
        self._etags: dict[str, str] = {}

    async def run(self, until: float) -> None:
        """Send requests until a time."""
        kinds: dict[Callable[[], Awaitable[None]], int] = {
            self.info: 20, self.tile: 40, self.again: 20, self.bad: 14, self.upscale: 4, self.job: 2,
        }  # fmt: skip
        while time.monotonic() < until:
            await self._random.choices(list(kinds), list(kinds.values()))[0]()
        self._connection.close()

    async def info(self) -> None:
        """Read a description."""
        await self._send("info.json", "GET", f"/iiif/{self._image()}/info.json", 200)

    async def tile(self) -> None:
        """Read a tile of any level of any picture."""
        name, (height, width) = self._random.choice(list(SIZES.items()))
        factor = self._random.choice((1, 2, 4, 8, 16))
        left, top = (TILE * self._random.randrange(-(-side * factor // TILE)) for side in (width, height))
        path = f"/iiif/{name}@{factor}x/{left},{top},{TILE},{TILE}/max/0/default.jpg"
        answer = await self._send("tile of the source" if factor == 1 else "tile of the model", "GET", path, 200)
        if answer is not None:
            self._etags[path] = answer.headers["etag"]

    async def again(self) -> None:
        """Ask for a tile that is held already."""
        if self._etags:
            path, etag = self._random.choice(list(self._etags.items()))
            await self._send("conditional", "GET", path, 304, If_None_Match=etag)

    async def bad(self) -> None:
        """Send a request that is refused."""
        path, status = self._random.choice(list(BAD.items()))
        await self._send("refused", "GET", path, status)

    async def upscale(self) -> None:
        """Upscale a picture of the client's."""
        await self._send("/v1/upscale", "POST", "/v1/upscale?scale=2", 200, self._small)

    async def job(self) -> None:
        """Upscale one of the server's pictures as a job, and wait for its result."""
        job = await self._send("POST /v1/jobs", "POST", "/v1/jobs?picture=wide&scale=1.5", 202)
        if job is None:
            return
        path = job.headers["location"]
        events = await self._send("events of a job", "GET", f"{path}/events", 200)
        if events is not None and b'"status": "done"' not in events.body:
            self._tally.lost.append(f"{path}: it ended as {events.body[-200:]!r}")
        await self._send("result of a job", "GET", f"{path}/result", 200)
        await self._send("DELETE a job", "DELETE", path, 204)

    def _image(self) -> str:
        return f"{self._random.choice(list(SIZES))}@{self._random.choice((1, 2, 8, 16))}x"

    async def _send(
        self, kind: str, method: str, path: str, status: int, body: bytes = b"", **headers: str
    ) -> Answer | None:
        """The response, or None where it is another than it should be; both are counted."""
        began = time.perf_counter()
        try:
            answer = await self._connection.send(method, path, body, **headers)
        except (OSError, EOFError, ValueError) as error:
            self._tally.lost.append(f"{method} {path}: {type(error).__name__} {error}")
            self._connection.close()
            return None
        if answer.status == status:
            self._tally.seconds[kind].append(time.perf_counter() - began)
            return answer
        if answer.status in (429, 503):
            self._tally.busy[kind] += 1
            await asyncio.sleep(1)
        else:
            self._tally.lost.append(f"{method} {path}: {answer.status}, not {status}: {answer.body[:200]!r}")
        return None


@dataclass(frozen=True)
class Server:
    """A server process."""

    pid: int
    port: int

    @property
    def mebibytes(self) -> int:
        """Resident memory."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8"))
        assert found is not None
        return int(found[1]) >> 10


@contextlib.contextmanager
def serving(folder: Path, words: list[str]) -> Iterator[Server]:
    """`hiif-deploy serve` of a folder."""
    command = [sys.executable, "-m", "hiif_deploy.cli", "serve", str(folder), "--port", "0", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            # The log may break the line before the address.
            ports = (re.search(r"http://.*:(\d+)/", line) for line in process.stderr)
            yield Server(process.pid, next(int(found[1]) for found in ports if found))
        finally:
            process.terminate()


async def load(server: Server, clients: int, seconds: float, small: bytes) -> tuple[Tally, list[int]]:
    """What the clients saw, and the server's memory [MiB] meanwhile."""
    tally = Tally()
    until = time.monotonic() + seconds
    memory = asyncio.create_task(_memory(server, seconds))
    await asyncio.gather(*(Client(seed, server.port, small, tally).run(until) for seed in range(clients)))
    return tally, await memory


async def _memory(server: Server, seconds: float) -> list[int]:
    found = [server.mebibytes]
    for _ in range(12):
        await asyncio.sleep(seconds / 12)
        found.append(server.mebibytes)
    return found


async def stages(server: Server) -> list[str]:
    """Where the server's time went: seconds and count of every stage."""
    text = (await Connection(server.port).send("GET", "/metrics")).body.decode()
    found = re.findall(r'hiif_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)', text)
    values = {(stage, what): float(value) for what, stage, value in found}
    return [f"{stage} {values[stage, 'sum']:.1f} s / {values[stage, 'count']:.0f}" for stage in {s for s, _ in values}]


def report(tally: Tally, memory: list[int], seconds: float) -> None:
    """Print the table of a run."""
    print("| request | answered | per second | p50 [ms] | p95 [ms] | most [ms] | queue full |")
    print("|---|---|---|---|---|---|---|")
    for kind in sorted({*tally.seconds, *tally.busy}):
        found = tally.seconds[kind] or [0.0]
        cuts = quantiles(found, n=20, method="inclusive") if len(found) > 1 else found * 19
        cells = (f"{1e3 * value:.0f}" for value in (cuts[9], cuts[18], max(found)))
        count = len(tally.seconds[kind])
        print(f"| {kind} | {count} | {count / seconds:.1f} | {' | '.join(cells)} | {tally.busy[kind]} |")
    print(f"\nmemory [MiB], from start to end: {', '.join(map(str, memory))}\nlost: {len(tally.lost)}")
    for line in tally.lost[:20]:
        print(" ", line)


async def upscale_by_service(server: Server, query: str, picture: bytes, count: int) -> None:
    """Upscale `count` pictures, three of them on their way at a time."""
    waiting = iter(range(count))

    async def client() -> None:
        connection = Connection(server.port)
        for _ in waiting:
            answer = await connection.send("POST", f"/v1/upscale?{query}", picture)
            assert answer.status == 200, answer.body
        connection.close()

    await asyncio.gather(client(), client(), client())


def throughput(server: Server, upscaler: Upscaler, picture: Path, scale: float, suffix: str, rounds: int) -> None:
    """Print rounds of the service, of the engine from file to file, and of the engine on arrays alone, in turns."""
    pixels, data, count = read_image(picture).pixels, picture.read_bytes(), 4
    query, output = f"scale={scale}&format={suffix}", picture.with_name(f"output.{suffix}")

    def on_arrays() -> None:
        upscaler.upscale(pixels, scale=scale)

    def on_files() -> None:
        source = read_image(picture)
        write_image(output, upscale_picture(upscaler, source, Target(scale=scale).size(source.size)))

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "engine on arrays": (lambda: [on_arrays() for _ in range(count)], os.getpid()),
        "engine on files": (lambda: [on_files() for _ in range(count)], os.getpid()),
        "service": (lambda: asyncio.run(upscale_by_service(server, query, data, count)), server.pid),
    }
    for run, _ in ways.values():
        run()  # warm
    print(f"\n{upscaler.contract.name}, one megapixel x{scale:g} to {suffix}, {upscaler.description}")
    walls, works = ({way: list[float]() for way in ways} for _ in range(2))
    for _ in range(rounds):
        for way, (run, pid) in ways.items():
            began, worked = time.perf_counter(), cpu_seconds(pid)
            run()
            walls[way].append((time.perf_counter() - began) / count)
            works[way].append((cpu_seconds(pid) - worked) / count)
    for name, found in (("", walls), (" of processors, which other programs change less", works)):
        seconds = {way: median(values) for way, values in found.items()}
        shares = (f"{100 * seconds[way] / seconds['service']:.0f} % of the {way}" for way in list(ways)[:2])
        print(
            f"seconds{name}: {', '.join(f'{way} {value:.3f}' for way, value in seconds.items())};",
            f"throughput of the service: {' and '.join(shares)}",
        )


def cpu_seconds(pid: int) -> float:
    """Seconds of processors that a process took."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_pictures(folder: Path) -> None:
    """Write the pictures that are served, and one of a megapixel."""
    import cv2

    for name, (height, width) in SIZES.items():
        resized = cv2.resize(sample("astronaut"), (width, height), interpolation=cv2.INTER_AREA)
        write_image(folder / f"{name}.png", Picture(np.asarray(resized)))


def megapixel(path: Path) -> Path:
    """Write a photograph of a megapixel."""
    import cv2

    write_image(path, Picture(np.asarray(cv2.resize(sample("coffee"), MEGAPIXEL[::-1], interpolation=cv2.INTER_CUBIC))))
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--format", default="png", help="of what the service returns")
    parser.add_argument("--bundle", default="hiif-live")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder)
        words = ["--bundle", given.bundle, "--threads", str(given.threads)]
        tally = Tally()
        with serving(folder, words) as server:
            if given.seconds:
                small = (folder / "small.png").read_bytes()
                tally, memory = asyncio.run(load(server, given.clients, given.seconds, small))
                report(tally, memory, given.seconds)
                print("stages:", "; ".join(sorted(asyncio.run(stages(server)))))
            if given.rounds:
                with Upscaler(given.bundle, engine=EngineOptions(threads=given.threads)) as upscaler:
                    throughput(
                        server, upscaler, megapixel(folder / "megapixel.png"), given.scale, given.format, given.rounds
                    )
    sys.exit(bool(tally.lost))


if __name__ == "__main__":
    main()
