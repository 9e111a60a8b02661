"""The routes of the IIIF Image API: info.json, and images that are rendered once and kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hiif_deploy.server.caches.single_flight import SingleFlight
from hiif_deploy.server.caches.tile_store import TileStore
from hiif_deploy.server.collection import Collection, Entry
from hiif_deploy.server.iiif.draw import draw
from hiif_deploy.server.iiif.info import PROFILE, info, max_area
from hiif_deploy.server.iiif.request import (
    FORMATS,
    MEDIA_TYPES,
    Drawing,
    canonical_drawing,
    canonical_region,
    canonical_size,
    check_form,
    parse_drawing,
    parse_identifier,
    parse_region,
    parse_size,
)
from hiif_deploy.server.iiif.view import View, pixels_of, view_of
from hiif_deploy.server.metrics import Metrics
from hiif_deploy.server.models import BICUBIC, Model
from hiif_deploy.server.options import Limits
from hiif_deploy.server.studio import Shown, Studio
from hiif_deploy.server.web import RequestError, is_unchanged, redirect, respond, respond_json, while_connected
from hiif_deploy.server.work_queue import Progress, WorkQueue
from hiif_deploy.support.version import __version__

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from hiif_deploy.geometry.sizes import Size

LD_JSON = 'application/ld+json;profile="http://iiif.io/api/image/3/context.json"'
IMAGE_AGE = "private, max-age=3600"


@dataclass(frozen=True)
class Image:
    """An image that a client names: a picture, at a factor, by a model."""

    shown: Shown
    model: Model | None
    """None: bicubic interpolation."""
    factor: int

    @property
    def size(self) -> Size:
        """(height, width) of the image, which may be virtual."""
        return self.shown.size[0] * self.factor, self.shown.size[1] * self.factor


class ImageService:
    """Answers IIIF requests."""

    def __init__(
        self,
        collection: Collection,
        studio: Studio,
        tiles: TileStore,
        queues: tuple[WorkQueue, WorkQueue, WorkQueue],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._collection = collection
        self._studio = studio
        self._tiles = tiles
        self._reading, self._rendering, self._drawing = queues
        self._limits = limits
        self._metrics = metrics
        self._flights: SingleFlight[bytes] = SingleFlight()
        self._decoding: SingleFlight[Shown] = SingleFlight()

    def routes(self) -> list[Any]:
        """Return Starlette's routes."""
        from starlette.routing import Route

        return [
            Route("/iiif/{id}", self.base),
            Route("/iiif/{id}/info.json", self.info),
            Route("/iiif/{id}/{region}/{size}/{rotation}/{last}", self.image),
        ]

    async def base(self, request: Request) -> Response:
        """Redirect from an image's own URL to its description."""
        parse_identifier(request.path_params["id"])
        return redirect(f"{_image_url(request)}/info.json")

    async def info(self, request: Request) -> Response:
        """Describe an image."""
        image = await self._image(request.path_params["id"])
        described = info(_image_url(request), image.size, self._limits.output_pixels)
        etag = _etag(json.dumps(described))
        headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept"}
        if is_unchanged(request, etag):
            return respond("", "application/json", headers, 304)
        wants_ld = "application/ld+json" in request.headers.get("accept", "")
        return respond_json(described, headers, media_type=LD_JSON if wants_ld else "application/json")

    async def image(self, request: Request) -> Response:
        """Return a part of an image."""
        wanted = request.path_params
        drawing = parse_drawing(wanted["rotation"], wanted["last"])
        check_form(wanted["region"], wanted["size"])
        image = await self._image(wanted["id"])
        crop = parse_region(wanted["region"], image.size)
        limit = self._limits.output_pixels
        size = parse_size(wanted["size"], crop, max_area(image.size, limit), limit)
        if max(size) > (most := FORMATS[drawing.format].side):
            raise RequestError(400, f"format: {drawing.format} has at most {most:,} pixels per side, not {max(size):,}")
        view = view_of(image.shown.size, image.size, crop, size)
        key = self._key(image, view, drawing)
        is_max = size == parse_size("max", crop, max_area(image.size, limit), limit)
        canonical = "/".join((
            _image_url(request), canonical_region(crop, image.size),
            "max" if is_max else canonical_size(size, crop),
            canonical_drawing(drawing, is_grey=image.shown.pixels.ndim == 2),
        ))  # fmt: skip
        headers = {
            "ETag": _etag(key),
            "Cache-Control": IMAGE_AGE,
            "Link": f'<{PROFILE}>;rel="profile", <{canonical}>;rel="canonical"',
        }
        if is_unchanged(request, headers["ETag"]):
            return respond("", MEDIA_TYPES[drawing.format], headers, 304)
        data = await while_connected(request, self._flights.run(key, partial(self._made, key, image, view, drawing)))
        return respond(data, MEDIA_TYPES[drawing.format], headers)

    async def _image(self, text: str) -> Image:
        identifier = parse_identifier(text)
        models, wants_model = self._studio.models, identifier.model != BICUBIC
        if wants_model and identifier.model:
            models.kept(identifier.model, identifier.precision)
        entry = self._collection.find(identifier.picture)
        shown = self._studio.kept(entry) or await self._decoding.run(entry, lambda: self._read(entry))
        model = None
        if wants_model:
            name = identifier.model or self._studio.suited(shown.degradation)
            wanted = name, identifier.precision
            model = models.kept(*wanted) or await self._reading.run(lambda _: models.open(*wanted))
        return Image(shown, model, identifier.factor)

    async def _read(self, entry: Entry) -> Shown:
        return await self._reading.run(lambda _: self._studio.picture(entry))

    def _key(self, image: Image, view: View, drawing: Drawing) -> str:
        """What names the bytes of a response: the picture, and the model where it takes part."""
        made_by = "source" if not view.needs_model(image.shown.size) else image.model.key if image.model else BICUBIC
        return f"{__version__} {' '.join(image.shown.key)} {made_by} {view} {drawing}"

    async def _made(self, key: str, image: Image, view: View, drawing: Drawing) -> bytes:
        found = await asyncio.to_thread(self._tiles.get, key)
        self._metrics.cache("tiles", hit=found is not None)
        if found is not None:
            return found
        # What needs no model must not wait for what does.
        queue = self._rendering if view.needs_model(image.shown.size) else self._drawing
        made = await queue.run(partial(self._draw, image, view, drawing))
        await asyncio.to_thread(self._tiles.put, key, made)
        return made

    def _draw(self, image: Image, view: View, drawing: Drawing, progress: Progress) -> bytes:
        render = partial(self._studio.render, image.shown, image.model)
        pixels = pixels_of(
            view, image.shown.pixels, self._limits.output_pixels, lambda level, region: render(level, region, progress)
        )
        with self._metrics.stage("write"):
            return draw(pixels, drawing, image.shown)


def _image_url(request: Request) -> str:
    """URL of the image, as its client knows it."""
    url = request.url
    return f"{url.scheme}://{url.netloc}{request.scope.get('root_path', '')}/iiif/{request.path_params['id']}"


def _etag(text: str) -> str:
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
