"""The front on each node: takes requests from the network and hands them to the replica that holds their picture."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from hiif_deploy.server.cluster.keys import route_key
from hiif_deploy.server.options import Limits
from hiif_deploy.server.uploads import limited
from hiif_deploy.server.web import ID_PREFIX, RequestError, respond_error

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)
ATTEMPTS = 3
"""Replicas that a request is given to, one after the other, where they are lost before they respond."""
LARGEST = 64 << 20
"""Bytes from which on a response is passed on as it comes. Shorter ones are repeated where a replica is lost."""
COPIED = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client", "server")
"""What a replica learns of a request."""


class Front:
    """Forwards requests. Ray calls it with Starlette's."""

    def __init__(self, replicas: Any, limits: Limits) -> None:
        """`replicas` is a handle of the deployment of `Replica`."""
        self._replicas = replicas
        self._limits = limits

    async def __call__(self, request: Request) -> Response:
        """Return the response of a replica: 503 where all that may serve it are busy or lost."""
        try:
            body = b"".join([part async for part in limited(request, self._limits.upload_bytes)])
            return await self._forwarded(request, body)
        except RequestError as error:
            return respond_error(error)

    async def _forwarded(self, request: Request, body: bytes) -> Response:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        key = route_key(request.url.path, request.query_params)
        scope = {name: request.scope.get(name) for name in COPIED} | {"root_path": "", ID_PREFIX: key}
        handle = self._replicas.options(stream=True, session_id=key)
        for _ in range(ATTEMPTS):
            try:
                return await _response(handle.respond.remote(scope, body))
            except BackPressureError:
                raise RequestError(503, "too many requests wait; try again later", {"Retry-After": "5"}) from None
            except RayActorError as error:
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
