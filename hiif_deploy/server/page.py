"""The page: files of this package, and the viewer's script. Nothing comes from elsewhere."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hiif_deploy.server.viewer import INSTALL, viewer_script
from hiif_deploy.server.web import RequestError, is_unchanged, respond

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

FILES = {
    "/": ("index.html", "text/html"),
    "/page/app.js": ("app.js", "text/javascript"),
    "/page/clips.js": ("clips.js", "text/javascript"),
    "/page/common.js": ("common.js", "text/javascript"),
    "/page/style.css": ("style.css", "text/css"),
}
"""Path → file in the folder `assets`, and its media type."""
VIEWER_PATH = "/page/openseadragon.js"


class PageService:
    """Gives a browser the page."""

    def __init__(self) -> None:
        folder = files("hiif_deploy.server") / "assets"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    def routes(self) -> list[Any]:
        """Return Starlette's routes."""
        from starlette.routing import Route

        return [*(Route(path, self.file) for path in FILES), Route(VIEWER_PATH, self.viewer)]

    async def file(self, request: Request) -> Response:
        """Return a file of the page."""
        return _answer(request, *self._files[request.url.path])

    async def viewer(self, request: Request) -> Response:
        """Return the viewer's script; read again each time, so that it may be installed while the server runs."""
        script = viewer_script()
        if script is None:
            raise RequestError(404, f"the viewer is not installed: {INSTALL}")
        return _answer(request, script, "text/javascript")


def _answer(request: Request, data: bytes, media_type: str) -> Response:
    headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"', "Cache-Control": "no-cache"}
    if is_unchanged(request, headers["ETag"]):
        return respond("", media_type, headers, 304)
    return respond(data, media_type, headers)
