"""The front on each node: takes requests from the network and hands them to the replica that holds their picture."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextvars import Context
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hiif_deploy.server.cluster.keys import key_in, route_of
from hiif_deploy.server.options import ServeOptions
from hiif_deploy.server.security import Guard
from hiif_deploy.server.uploads import limited
from hiif_deploy.server.web import ID_PREFIX, RequestError, is_full_disk, reason_of, respond_error

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)
ATTEMPTS = 3
"""Replicas that a request is given to, one after the other, where they are lost before they respond."""
LARGEST = 64 << 20
"""Bytes from which on a response is passed on as it comes. Shorter ones are repeated where a replica is lost."""
PART = 4 << 20
"""Bytes of a request's body that are held here at most: Ray's calls take whole values, so a longer body goes to the
replica by several calls. One that is not longer is sent again where its replica is lost."""
COPIED = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client", "server")
"""What a replica learns of a request."""


class Front:
    """Forwards requests. Ray calls it with Starlette's."""

    def __init__(self, replicas: Any, options: ServeOptions) -> None:
        """`replicas` is a handle of the deployment of `Replica`."""
        self._replicas = replicas
        self._limits = options.limits
        self._guard = Guard(replicas, options)  # Only its check is used.

    async def __call__(self, request: Request) -> Response:
        """Return the response of a replica: 503 where all that may serve it are busy or lost."""
        try:
            route, body, name = await self._received(request)
            try:
                return await self._forwarded(request, route, body, name)
            except BaseException:
                self._discard(route, name)
                raise
        except RequestError as error:
            return respond_error(error)

    async def _received(self, request: Request) -> tuple[str, bytes, str]:
        """Return a request's route, and its body, or the name under which its replica keeps a long one."""
        from starlette.requests import ClientDisconnect

        limits, route = self._limits, route_of(request.url.path, request.query_params)
        if request.url.path == "/v1/clips":
            limits = replace(limits, upload_bytes=limits.clip_upload_bytes, upload_seconds=limits.clip_upload_seconds)
        body, name = bytearray(), ""
        try:
            async with asyncio.timeout(limits.upload_seconds):
                async for part in limited(request, limits.upload_bytes):
                    if part and not (body or name):
                        self._guard.check(request.scope)  # before any of it is kept
                    body += part
                    if len(body) >= PART:
                        # Named here: what a replica keeps while its client leaves must be found, to be discarded.
                        is_first, name = not name, name or f"{secrets.token_hex(16)}.body"
                        route = await self._kept(route, name, body, is_first=is_first)
                if name:
                    route = await self._kept(route, name, body)
        except BaseException as error:
            self._discard(route, name)
            if isinstance(error, ClientDisconnect):
                raise RequestError(499, "the client has left") from None
            if isinstance(error, TimeoutError):
                reason = f"the upload took longer than {limits.upload_seconds:g} seconds"
                raise RequestError(408, reason) from None
            raise
        return route, bytes(body), name

    async def _kept(self, route: str, name: str, body: bytearray, *, is_first: bool = False) -> str:
        """Give a part of a long body to a replica, which keeps it on its disk. Return the replica's route."""
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        try:
            tag = await self._called(route).keep.remote(name, bytes(body), is_first=is_first)
        except (RayError, RayServeException) as error:
            if isinstance(error, RayTaskError) and is_full_disk(error.cause):
                raise RequestError(507, reason_of(error.cause)) from error
            logger.warning("a replica was lost, with what had arrived of an upload: %s", error)
            raise RequestError(503, "the upload was lost; try again", {"Retry-After": "5"}) from error
        if not tag:
            reason = "too many uploads arrive, or this one's replica was lost; try again later"
            raise RequestError(503, reason, {"Retry-After": "30"})
        body.clear()
        return f"{key_in(route)}:{tag}"

    def _called(self, route: str, *, stream: bool = False) -> Any:
        return self._replicas.options(stream=stream, session_id=route)

    def _discard(self, route: str, name: str) -> None:
        if name:
            # In no request's context: Ray cancels the calls of a request whose client leaves.
            Context().run(lambda: self._called(route).discard.remote(name))

    async def _forwarded(self, request: Request, route: str, body: bytes, name: str) -> Response:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        scope = {copied: request.scope.get(copied) for copied in COPIED} | {"root_path": "", ID_PREFIX: key_in(route)}
        for _ in range(1 if name else ATTEMPTS):
            try:
                return await _response(self._called(route, stream=True).respond.remote(scope, body, name))
            except BackPressureError:
                raise RequestError(503, "too many requests wait; try again later", {"Retry-After": "5"}) from None
            except (RayActorError, FileNotFoundError) as error:  # The latter from a replica that has no such body.
                logger.warning("a replica was lost, its request goes to another one: %s", error)
        raise RequestError(503, "the replicas of this picture were lost; try again", {"Retry-After": "5"})


async def _response(parts: Any) -> Response:
    """The response whose parts a replica yields; in whole, unless it is long or has no known end, as events."""
    from starlette.responses import Response, StreamingResponse

    status, headers = await anext(parts)
    headers = [(bytes(name), bytes(value)) for name, value in headers]
    length = int(dict(headers).get(b"content-length", LARGEST))
    if length < LARGEST:
        response = Response(b"".join([part async for part in parts]), status)
    else:
        response = StreamingResponse(_following(parts), status)
    response.raw_headers = headers
    return response


async def _following(parts: Any) -> AsyncIterator[bytes]:
    """The rest of a response. A client that leaves ends the replica's work."""
    try:
        async for part in parts:
            yield part
    finally:
        parts.cancel()
