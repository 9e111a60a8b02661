"""The routes under /v1: pictures, plans, upscaling at once or as jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hiif_deploy.server.collection import Collection, Entry
from hiif_deploy.server.jobs import MEDIA_TYPES, Job, Jobs
from hiif_deploy.server.openapi import document
from hiif_deploy.server.options import Limits
from hiif_deploy.server.studio import Studio, read_entry
from hiif_deploy.server.uploads import receive
from hiif_deploy.server.web import (
    RequestError,
    id_prefix,
    respond,
    respond_events,
    respond_file,
    respond_json,
    while_connected,
)
from hiif_deploy.server.work_queue import WorkQueue

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class UpscaleService:
    """Answers requests under /v1."""

    def __init__(
        self, collection: Collection, studio: Studio, jobs: Jobs, reading: WorkQueue, folder: Path, limits: Limits
    ) -> None:
        """Uploads arrive in `folder`."""
        self._collection = collection
        self._studio = studio
        self._jobs = jobs
        self._reading = reading
        self._folder = folder
        self._limits = limits

    def routes(self) -> list[Any]:
        """Return Starlette's routes."""
        from starlette.routing import Route

        return [
            Route("/openapi.json", self.openapi),
            Route("/v1/models", self.models),
            Route("/v1/pictures", self.pictures),
            Route("/v1/pictures", self.add_picture, methods=["POST"]),
            Route("/v1/pictures/{id}", self.picture),
            Route("/v1/pictures/{id}", self.remove_picture, methods=["DELETE"]),
            Route("/v1/plan", self.plan),
            Route("/v1/upscale", self.upscale, methods=["POST"]),
            Route("/v1/jobs", self.add_job, methods=["POST"]),
            Route("/v1/jobs/{id}", self.job),
            Route("/v1/jobs/{id}", self.remove_job, methods=["DELETE"]),
            Route("/v1/jobs/{id}/events", self.events),
            Route("/v1/jobs/{id}/result", self.result),
        ]

    async def openapi(self, _: Request) -> Response:
        """Return the OpenAPI document."""
        return respond_json(document())

    async def models(self, _: Request) -> Response:
        """List the models; the first one is the default, and so is the first precision of each."""
        models = self._studio.models
        listed = []
        for name in models.names:
            upscaler = models.own(name).upscaler
            state = {"name": name, "engine": upscaler.description, "weights": upscaler.contract.parameters}
            listed.append({**state, "precisions": models.precisions(name)})
        return respond_json({"models": listed})

    async def pictures(self, _: Request) -> Response:
        """List the pictures that everyone may see: uploads are known to those who have their ids."""
        shown = [{"id": entry.id, "name": entry.name} for entry in self._collection.entries()]
        return respond_json({"pictures": shown})

    async def add_picture(self, request: Request) -> Response:
        """Keep an upload as a picture that zooms."""
        upload = await receive(request, self._folder, self._limits)
        try:
            sent = Entry("", upload.path, upload.name)
            picture = await self._reading.run(lambda _: read_entry(sent, self._limits.input_pixels))
            entry = await asyncio.to_thread(self._collection.add_upload, upload.path, upload.name, id_prefix(request))
        finally:
            upload.path.unlink(missing_ok=True)
        height, width = picture.size
        return respond_json({"id": entry.id, "name": entry.name, "width": width, "height": height}, status=201)

    async def picture(self, request: Request) -> Response:
        """Return a picture's size, and the model for it where a client names none."""
        entry = self._collection.find(request.path_params["id"])
        shown = await self._reading.run(lambda _: self._studio.picture(entry))
        (height, width), found = shown.size, shown.degradation
        state = {"id": entry.id, "name": entry.name, "width": width, "height": height}
        return respond_json({**state, "model": self._studio.suited(found), "jpeg": found.jpeg, "noise": found.noise})

    async def remove_picture(self, request: Request) -> Response:
        """Remove an upload."""
        self._collection.remove(request.path_params["id"])
        return respond("", "text/plain", status=204)

    async def plan(self, request: Request) -> Response:
        """Say what an order would take, without running it."""
        values = dict(request.query_params)
        entry, order = self._named(values), self._jobs.parse(values)
        estimate = await self._jobs.estimate(entry, order)
        seconds = await self._jobs.seconds(estimate)
        return respond_json({**estimate.describe(), "seconds": round(seconds, 2)})

    async def upscale(self, request: Request) -> Response:
        """Return a picture, upscaled. A client that leaves cancels it."""
        job = await self._started(request)
        try:
            await while_connected(request, job.is_over.wait())
            if job.error is not None:
                raise job.error
            data = await asyncio.to_thread(job.result.read_bytes)
        finally:
            self._jobs.remove(job)
            await job.is_over.wait()
            self._jobs.remove(job)
        disposition = f"attachment; filename*=UTF-8''{quote(job.name, safe='')}"
        return respond(data, MEDIA_TYPES[job.suffix], {"Content-Disposition": disposition, "Cache-Control": "no-store"})

    async def add_job(self, request: Request) -> Response:
        """Queue a picture."""
        job = await self._started(request)
        return respond_json(job.describe(), {"Location": f"/v1/jobs/{job.id}"}, 202)

    async def job(self, request: Request) -> Response:
        """Return a job's state."""
        return respond_json(self._jobs.find(request.path_params["id"]).describe(), {"Cache-Control": "no-store"})

    async def remove_job(self, request: Request) -> Response:
        """Cancel a job, or remove one that is over."""
        self._jobs.remove(self._jobs.find(request.path_params["id"]))
        return respond("", "text/plain", status=204)

    async def events(self, request: Request) -> Response:
        """Send a job's state whenever it changes, until it is over."""
        return respond_events(self._jobs.events(self._jobs.find(request.path_params["id"])))

    async def result(self, request: Request) -> Response:
        """Return a finished job's picture."""
        job = self._jobs.find(request.path_params["id"])
        if job.error is not None:
            raise job.error
        if not job.is_over.is_set():
            raise RequestError(409, f"the job is {job.status}: its result comes later")
        return respond_file(job.result, MEDIA_TYPES[job.suffix], job.name)

    async def _started(self, request: Request) -> Job:
        """The job of a request that names a picture by its id, or sends one."""
        values = dict(request.query_params)
        if "picture" in values:
            order = self._jobs.parse(values)
            return await self._jobs.start(self._named(values), order, owns=False, prefix=id_prefix(request))
        if "content-type" not in request.headers or not _is_form(request):
            self._jobs.parse(values)  # before the upload, where everything is known
        upload = await receive(request, self._folder, self._limits)
        entry = Entry("", upload.path, upload.name)
        try:
            order = self._jobs.parse({**values, **upload.fields})
        except BaseException:
            upload.path.unlink(missing_ok=True)
            raise
        return await self._jobs.start(entry, order, owns=True, prefix=id_prefix(request))

    def _named(self, values: Mapping[str, str]) -> Entry:
        if "picture" not in values:
            raise RequestError(400, "picture: expected the id of a picture")
        return self._collection.find(values["picture"])


def _is_form(request: Request) -> bool:
    return request.headers["content-type"].startswith("multipart/form-data")
