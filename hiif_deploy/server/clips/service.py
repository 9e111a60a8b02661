"""The routes under /v1/clips."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from hiif_deploy.server.clips.clips import Clips
from hiif_deploy.server.clips.job import ClipJob
from hiif_deploy.server.clips.order import MEDIA_TYPES
from hiif_deploy.server.jobs import flag
from hiif_deploy.server.options import Limits
from hiif_deploy.server.uploads import plain_name, receive
from hiif_deploy.server.web import RequestError, id_prefix, respond, respond_events, respond_file, respond_json
from hiif_deploy.server.work_queue import WorkQueue
from hiif_deploy.support.extras import require_extra

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

T = TypeVar("T")


class ClipService:
    """Answers requests under /v1/clips."""

    def __init__(self, clips: Clips, planning: WorkQueue, arriving: Path, limits: Limits) -> None:
        """`planning` is where clips are read, one after the other; uploads arrive in `arriving`."""
        self._clips = clips
        self._planning = planning
        self._limits = limits
        self._upload_limits = replace(
            limits, upload_bytes=limits.clip_upload_bytes, upload_seconds=limits.clip_upload_seconds
        )
        self._folder = arriving
        self._arriving = 0

    def routes(self) -> list[Any]:
        """Return Starlette's routes."""
        from starlette.routing import Route

        return [
            Route("/v1/clips", self.add, methods=["POST"]),
            Route("/v1/clips/{id}", self.state),
            Route("/v1/clips/{id}", self.remove, methods=["DELETE"]),
            Route("/v1/clips/{id}/plan", self.plan),
            Route("/v1/clips/{id}/start", self.start, methods=["POST"]),
            Route("/v1/clips/{id}/events", self.events),
            Route("/v1/clips/{id}/source", self.source),
            Route("/v1/clips/{id}/result", self.result),
        ]

    async def add(self, request: Request) -> Response:
        """Keep a clip, plan it, and queue it unless `start=false`."""
        try:
            require_extra("video")
        except Exception as error:
            raise RequestError(501, f"this server takes no clips: {error}") from error
        if self._arriving >= self._limits.clip_uploads:
            raise RequestError(503, f"{self._arriving} clips arrive already; try again later", {"Retry-After": "30"})
        if _starts(request.query_params):
            self._clips.check_queue()  # before the upload
        self._arriving += 1
        try:
            upload = await receive(request, self._folder, self._upload_limits)
        finally:
            self._arriving -= 1
        try:
            values = {**request.query_params, **upload.fields}
            name = plain_name(values.pop("name", upload.name))
            starts = _starts(values)
            values.pop("start", None)
            job = await self._planned(lambda: self._clips.add(upload.path, name, values, id_prefix(request)))
        finally:
            upload.path.unlink(missing_ok=True)
        if starts:
            try:
                await self._planned(lambda: self._clips.start(job, {}))
            except BaseException:
                self._clips.remove(job)
                raise
        return respond_json(job.describe(), {"Location": f"/v1/clips/{job.id}"}, 202 if starts else 201)

    async def state(self, request: Request) -> Response:
        """Return a clip's state."""
        return respond_json(self._named(request).describe(), {"Cache-Control": "no-store"})

    async def plan(self, request: Request) -> Response:
        """Say what another order would take."""
        job, values = self._named(request), dict(request.query_params)
        return respond_json(await self._planned(partial(self._clips.plan, job, values)))

    async def start(self, request: Request) -> Response:
        """Queue a clip that is planned, or one that failed or was cancelled again."""
        job, values = self._named(request), dict(request.query_params)
        await self._planned(partial(self._clips.start, job, values))
        return respond_json(job.describe(), status=202)

    async def remove(self, request: Request) -> Response:
        """Cancel a clip, or remove one that is over."""
        await asyncio.to_thread(self._clips.remove, self._named(request))
        return respond("", "text/plain", status=204)

    async def events(self, request: Request) -> Response:
        """Send a clip's state whenever it changes, until it is over."""
        return respond_events(self._clips.events(self._named(request)))

    async def source(self, request: Request) -> Response:
        """Return the clip as it came."""
        job = self._named(request)
        return respond_file(job.source, MEDIA_TYPES.get(job.source.suffix, "video/x-matroska"), job.name)

    async def result(self, request: Request) -> Response:
        """Return the upscaled clip, with all its streams."""
        job = self._named(request)
        job.check_result()
        return respond_file(job.result, MEDIA_TYPES[job.result.suffix], job.result_name)

    def _named(self, request: Request) -> ClipJob:
        return self._clips.find(request.path_params["id"])

    async def _planned(self, work: Callable[[], T]) -> T:
        return await self._planning.run(lambda _: work())


def _starts(values: Mapping[str, str]) -> bool:
    return flag(values, "start", default=True)
