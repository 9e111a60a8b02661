"""A replica: the whole server within a process of Ray's, whose requests come by calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.server.app import open_server
from hiif_deploy.server.models import opened_upscalers
from hiif_deploy.server.options import ServeOptions
from hiif_deploy.server.security import Message
from hiif_deploy.upscaler import RenderOptions


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

        self._name = str(serve.get_replica_context().replica_id.unique_id).encode()
        self._stack = contextlib.ExitStack()
        opened = opened_upscalers(settings.bundles, settings.engine, settings.render)
        models = self._stack.enter_context(opened)
        self._server = self._stack.enter_context(open_server(models, settings.sources, settings.options))

    async def respond(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Any]:
        """Yield the status and headers of the response, then the parts of its body."""
        sent: asyncio.Queue[Message | None] = asyncio.Queue()
        task = asyncio.create_task(self._run(scope, body, sent))
        try:
            while (message := await sent.get()) is not None:
                if message["type"] == "http.response.start":
                    yield message["status"], [*message["headers"], (b"x-replica", self._name)]
                elif message.get("body"):
                    yield message["body"]
            await task
        finally:
            # The client has left: what it asked for is cancelled.
            task.cancel()

    async def _run(self, scope: dict[str, Any], body: bytes, sent: asyncio.Queue[Message | None]) -> None:
        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if requests:
                return requests.pop()
            await asyncio.Event().wait()
            raise AssertionError

        try:
            await self._server.app(scope, receive, sent.put)
        finally:
            await sent.put(None)

    def __del__(self) -> None:
        self._stack.close()
