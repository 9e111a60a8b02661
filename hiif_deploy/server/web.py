"""Responses and errors of all routes. Starlette is imported when the first one is made."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from hiif_deploy.errors import FrameError, HiifError, ImageError, ScaleError, UsageError, VideoError

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response


T = TypeVar("T")
INTERVAL = 0.2
"""Seconds between two looks at a connection, or at a job's progress."""


ID_PREFIX = "hiif_deploy.id_prefix"
"""Entry of an ASGI scope: hexadecimal digits by which a cluster finds the replica that has given an id."""


class RequestError(Exception):
    """A request that is refused, with its HTTP status and the reason."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})
        super().__init__(reason)


def status_of(error: Exception) -> int:
    """Return the HTTP status for an error."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, ImageError | FrameError | VideoError):
        return 415
    if isinstance(error, ScaleError | UsageError):
        return 400
    return 507 if isinstance(error, MemoryError) or is_full_disk(error) else 500


def reason_of(error: Exception) -> str:
    """Return one sentence for a client. What was not raised on purpose may name files, so only its kind is given."""
    if is_full_disk(error):
        return "the server's disk is full"
    known = isinstance(error, RequestError | HiifError)
    return str(error) if known else f"unexpected {type(error).__name__}: the server's log has more"


def is_full_disk(error: Exception) -> bool:
    """Return whether an error says that no more can be written."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def respond(
    content: bytes | str, media_type: str, headers: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    """Return a response with a body."""
    from starlette.responses import Response

    return Response(content, status, dict(headers or {}), media_type)


def respond_json(
    value: Any, headers: Mapping[str, str] | None = None, status: int = 200, media_type: str = "application/json"
) -> Response:
    """Return a value as JSON."""
    return respond(json.dumps(value, indent=1) + "\n", media_type, headers, status)


def respond_error(error: Exception) -> Response:
    """Return the response to a request that raised `error`: a status and a reason."""
    headers = error.headers if isinstance(error, RequestError) else {}
    return respond_json({"error": reason_of(error)}, {"Cache-Control": "no-store", **headers}, status_of(error))


def respond_file(path: Path, media_type: str, name: str) -> Response:
    """Return a file to save under `name`."""
    from starlette.responses import FileResponse

    # A clip that is started again with another order has another result at the same address.
    headers = {"Cache-Control": "private, no-cache"}
    response = FileResponse(path, media_type=media_type, filename=name, headers=headers)
    # Each part waits for a thread and for the event loop: 64 KiB at a time took seconds under load.
    response.chunk_size = 1 << 20
    return response


def redirect(location: str, status: int = 303) -> Response:
    """Return a redirection."""
    return respond("", "text/plain", {"Location": location}, status)


def respond_events(events: AsyncIterator[Mapping[str, Any]]) -> Response:
    """Return server-sent events, each with a value as JSON."""
    from starlette.responses import StreamingResponse

    async def lines() -> AsyncIterator[str]:
        async for event in events:
            yield f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. A client that leaves cancels it: RequestError 499."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=INTERVAL)
            if not task.done() and await request.is_disconnected():
                raise RequestError(499, "the client has left")
        return task.result()
    finally:
        task.cancel()


def id_prefix(request: Request) -> str:
    """Return what the ids must begin with that the response to a request gives; empty for a server by itself."""
    return str(request.scope.get(ID_PREFIX, ""))


async def changed_states(
    describe: Callable[[], dict[str, Any]], is_over: Callable[[], bool]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the state of work, which has `status` and `steps_done`, whenever these have changed, until it is over."""
    before = None
    while True:
        # Read first: the last state is that after the end.
        ends, state = is_over(), describe()
        if (state["status"], state["steps_done"]) != before:
            before = state["status"], state["steps_done"]
            yield state
        if ends:
            return
        await asyncio.sleep(INTERVAL)


def is_unchanged(request: Request, etag: str) -> bool:
    """Return whether the client holds what `etag` names (If-None-Match)."""
    held = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in held or "*" in held
