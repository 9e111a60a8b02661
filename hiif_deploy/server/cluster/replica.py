"""A replica: the whole server within a process of Ray's, whose requests come by calls."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.server.app import open_server
from hiif_deploy.server.cluster.keys import tag_of
from hiif_deploy.server.models import opened_upscalers
from hiif_deploy.server.options import ServeOptions
from hiif_deploy.server.security import Message
from hiif_deploy.server.web import ID_PREFIX
from hiif_deploy.upscaler import RenderOptions

PART = 1 << 20
"""Bytes of a body that are read at once."""


@dataclass(frozen=True)
class ReplicaSettings:
    """All that a replica is made of; sent to every node."""

    bundles: Mapping[str, Bundle]
    """Models by name, the first one is the default."""
    engine: EngineOptions
    render: RenderOptions
    sources: tuple[Path, ...]
    """Pictures and folders, at the same place on every node."""
    options: ServeOptions


class Replica:
    """Responds to requests. Ray makes an actor of it, and calls its methods in one event loop."""

    def __init__(self, settings: ReplicaSettings) -> None:
        from ray import serve

        self._name = str(serve.get_replica_context().replica_id.unique_id)
        self._tag = tag_of(self._name)
        self._limits = settings.options.limits
        self._stack = contextlib.ExitStack()
        opened = opened_upscalers(settings.bundles, settings.engine, settings.render)
        models = self._stack.enter_context(opened)
        self._server = self._stack.enter_context(open_server(models, settings.sources, settings.options))

    async def keep(self, name: str, part: bytes, *, is_first: bool) -> str:
        """Append a part to the body that arrives under `name`, which a front has made up.

        Return this replica's tag, or nothing where too much arrives, or another replica had the parts before. OSError,
        and none of the body is left, where it cannot be written.
        """
        folder = self._server.arriving
        if is_first:
            _remove_abandoned(folder, self._limits.clip_upload_seconds)
        elif not (folder / name).exists():
            return ""
        limit = self._limits.clip_uploads * max(self._limits.upload_bytes, self._limits.clip_upload_bytes)
        if sum(path.stat().st_size for path in folder.glob("*.body")) + len(part) > limit:
            return ""
        try:
            with (folder / name).open("ab") as file:
                await asyncio.to_thread(file.write, part)
        except OSError:
            await self.discard(name)
            raise
        return self._tag

    async def discard(self, name: str) -> None:
        """Remove a body that arrived."""
        (self._server.arriving / name).unlink(missing_ok=True)

    async def respond(self, scope: dict[str, Any], body: bytes, name: str = "") -> AsyncIterator[Any]:
        """Yield the status and headers of the response, then the parts of its body.

        The request's body is `body`, or what has arrived under `name`.
        """
        scope[ID_PREFIX] += self._tag
        with contextlib.ExitStack() as stack:
            file = stack.enter_context((self._server.arriving / name).open("rb")) if name else io.BytesIO(body)
            if name:
                await self.discard(name)
            async for part in self._responded(scope, file):
                yield part

    async def _responded(self, scope: dict[str, Any], body: BinaryIO) -> AsyncIterator[Any]:
        sent: asyncio.Queue[Message | None] = asyncio.Queue()
        task = asyncio.create_task(self._run(scope, body, sent))
        try:
            while (message := await sent.get()) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"], [*message["headers"], (b"x-replica", self._name.encode())]
                elif message.get("body"):
                    yield message["body"]
            await task
        finally:
            # The client has left: what it asked for is cancelled.
            task.cancel()

    async def _run(self, scope: dict[str, Any], body: BinaryIO, sent: asyncio.Queue[Message | None]) -> None:
        is_over = False

        async def receive() -> Message:
            nonlocal is_over
            if is_over:
                await asyncio.Event().wait()
            part = await asyncio.to_thread(body.read, PART)
            is_over = len(part) < PART
            return {"type": "http.request", "body": part, "more_body": not is_over}

        try:
            await self._server.app(scope, receive, sent.put)
        finally:
            await sent.put(None)

    def __del__(self) -> None:
        self._stack.close()


def _remove_abandoned(folder: Path, seconds: float) -> None:
    """Remove what no front has sent more of for so long: it was killed."""
    for path in folder.glob("*.body"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()
