"""Puts a server together: models, caches, routes; and runs it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiif_deploy.errors import HiifError, OptionError
from hiif_deploy.server.caches.tile_store import TileStore
from hiif_deploy.server.clips.clips import Clips
from hiif_deploy.server.clips.service import ClipService
from hiif_deploy.server.collection import Collection
from hiif_deploy.server.connection import impatient_protocol
from hiif_deploy.server.health import HealthService
from hiif_deploy.server.iiif.routes import ImageService
from hiif_deploy.server.jobs import Jobs
from hiif_deploy.server.metrics import Metrics
from hiif_deploy.server.models import Models
from hiif_deploy.server.options import ServeOptions, is_loopback
from hiif_deploy.server.page import PageService
from hiif_deploy.server.security import App, Guard, Message, Receive, Send
from hiif_deploy.server.service import UpscaleService
from hiif_deploy.server.studio import Studio
from hiif_deploy.server.web import RequestError, is_full_disk, respond_error
from hiif_deploy.server.work_queue import WorkQueue
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.files import locked
from hiif_deploy.upscaler import Upscaler

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)

KEEP_ALIVE = 10
"""Seconds that an idle connection is kept."""
CONNECTIONS = 512
"""Connections beyond which uvicorn answers 503."""
GRACE = 5
"""Seconds that running requests have after a signal to stop."""


@dataclass(frozen=True)
class Server:
    """A server that is put together, and not yet listening."""

    app: App
    """The ASGI application."""
    studio: Studio
    collection: Collection
    metrics: Metrics
    routes: list[Any]
    """Starlette's."""
    arriving: Path
    """Folder of uploads that are not complete."""


@contextlib.contextmanager
def open_server(models: Mapping[str, Upscaler], sources: Sequence[Path], options: ServeOptions) -> Iterator[Server]:
    """Put a server together; at the end its work is stopped and its temporary files are removed.

    `models` by name belong to the caller; `sources` are pictures and folders, without any the shipped samples are
    served. MissingExtraError where the extra `serve` is not installed; ImageError for sources without pictures.
    """
    require_extra("serve")
    limits = options.limits
    with contextlib.ExitStack() as stack:
        results = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hiif-deploy-serve-")))
        kept = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hiif-deploy-serve-")))
        uploads, clips_folder = _folder(kept, "uploads"), _folder(kept, "clips")
        arriving = stack.enter_context(_own_folder(kept, "arriving"))
        for path in (*arriving.glob("*.part"), *arriving.glob("*.body")):
            path.unlink(missing_ok=True)  # of a server that was killed
        collection = Collection(uploads, limits.uploads_bytes)
        for source in sources:
            collection.add_folder(source)
        if not sources:
            collection.add_samples()
        metrics = Metrics()
        opened = Models(models, limits)
        stack.callback(opened.close)
        studio = Studio(opened, limits, metrics)
        tiles = TileStore(stack.enter_context(_own_folder(kept, "tiles")), limits.tiles_bytes)
        # Tiles do not wait for whole pictures, and neither for what reads a picture to plan it.
        rendering = WorkQueue("tiles", limits.queue, limits.seconds)
        reading = WorkQueue("reading", limits.queue, limits.seconds)
        drawing = WorkQueue("drawing", limits.queue, limits.seconds, threads=2)
        jobs = Jobs(studio, results, reading, limits, metrics)
        queues = {"tile": rendering, "source_tile": drawing, "reading": reading, "job": jobs.queue}
        for queue in queues.values():
            stack.callback(queue.close)
        pictures = tuple(queues.values())
        clips = Clips(
            studio, collection, clips_folder, limits, metrics, lambda: any(queue.length for queue in pictures)
        )
        stack.callback(clips.close)
        planning = WorkQueue("clips", limits.queue, limits.seconds)
        stack.callback(planning.close)
        watched: dict[str, Any] = {**queues, "clip": clips, "planning": planning}
        for name, queue in watched.items():
            metrics.watch(f"{name}_queue", "Requests that run or wait", partial(getattr, queue, "length"))
        images = ImageService(collection, studio, tiles, (reading, rendering, drawing), limits, metrics)
        health = HealthService(studio, metrics, lambda: not any(queue.is_full for queue in queues.values()))
        service = UpscaleService(collection, studio, jobs, reading, arriving, limits)
        routes = [*health.routes(), *images.routes(), *service.routes(), *PageService().routes()]
        routes += ClipService(clips, planning, arriving, limits).routes()
        yield Server(
            Guard(_Measured(_starlette(routes), metrics), options), studio, collection, metrics, routes, arriving
        )


def _folder(kept: Path, name: str) -> Path:
    """A folder that servers share. OptionError where it cannot be written."""
    folder = kept / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--cache {kept}: cannot be written ({error.strerror})") from error
    return folder


@contextlib.contextmanager
def _own_folder(kept: Path, name: str) -> Iterator[Path]:
    """A folder of this server alone: `name`, `name-2`, … whichever no other one holds."""
    for count in itertools.count(1):
        folder = _folder(kept, name if count == 1 else f"{name}-{count}")
        with locked(folder / ".lock", wait=False) as is_ours:
            if is_ours:
                yield folder
                return


def _starlette(routes: list[Any]) -> App:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException

    async def refused(_: Request, error: Exception) -> Response:
        return respond_error(error)

    async def unknown(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return respond_error(RequestError(error.status_code, error.detail, error.headers))

    async def failed(request: Request, error: Exception) -> Response:
        if not is_full_disk(error):
            logger.error("%s %s", request.method, request.url.path, exc_info=error)
        return respond_error(error)

    handlers: dict[Any, Any] = {
        RequestError: refused,
        HiifError: refused,
        HTTPException: unknown,
        OSError: failed,
        MemoryError: failed,
    }
    handlers[Exception] = refused  # and uvicorn logs the traceback
    return Starlette(routes=routes, exception_handlers=handlers)


class _Measured:
    """An ASGI middleware that counts responses by route."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The route's pattern, not the path: clients can make up any number of paths.
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.request(route, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, counting)


def make_uvicorn(app: App) -> Any:
    """Return uvicorn's server for an application."""
    import uvicorn

    config = uvicorn.Config(
        app, http=impatient_protocol(), log_config=None, access_log=False, server_header=False, lifespan="off",
        timeout_keep_alive=KEEP_ALIVE, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=GRACE,
    )  # fmt: skip
    return uvicorn.Server(config)


def listen(options: ServeOptions) -> socket.socket:
    """Return a socket that listens. OptionError where the address cannot be used."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # asyncio turns off the delay of small packets (40 ms per response) only where the protocol is stated.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # On Windows it would let two servers listen on one port.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((options.host, options.port))
        listening.listen(CONNECTIONS)
    except OSError as error:
        listening.close()
        raise OptionError(f"--host {options.host} --port {options.port}: {error.strerror or error}") from error
    return listening


def serve(models: Mapping[str, Upscaler], sources: Sequence[Path], options: ServeOptions) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    with open_server(models, sources, options) as server, listen(options) as listening:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        count, kind = len(server.collection), "model" if len(models) == 1 else "models"
        pictures = f"{count} picture{'' if count == 1 else 's'}"
        logger.info("%s, %s %s: http://%s:%d/", pictures, kind, ", ".join(models), shown, port)
        if not is_loopback(options.host):
            logger.warning(
                "others can reach this server. They need the token, which is sent unencrypted: put a proxy with TLS "
                "before it on any network that you do not trust"
            )
        make_uvicorn(server.app).run(sockets=[listening])
