"""Health, metrics, and the health and metadata routes of the Open Inference Protocol (v2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hiif_deploy.server.metrics import Metrics
from hiif_deploy.server.studio import Studio
from hiif_deploy.server.web import respond, respond_json
from hiif_deploy.support.version import __version__

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class HealthService:
    """Tells load balancers and monitors about a server."""

    def __init__(self, studio: Studio, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
        """`is_ready` returns whether new work would be taken."""
        self._studio = studio
        self._metrics = metrics
        self._is_ready = is_ready

    def routes(self) -> list[Any]:
        """Return Starlette's routes."""
        from starlette.routing import Route

        return [
            Route("/health/live", self.live),
            Route("/health/ready", self.ready),
            Route("/metrics", self.metrics),
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/models/{model}", self.model),
            Route("/v2/models/{model}/ready", self.model_ready),
        ]

    async def live(self, _: Request) -> Response:
        """Say that the server runs."""
        return respond_json({"live": True})

    async def ready(self, _: Request) -> Response:
        """Say whether work would be taken: 503 while the queue is full."""
        ready = self._is_ready()
        return respond_json({"ready": ready}, status=200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Return Prometheus' metrics."""
        text, media_type = self._metrics.text()
        return respond(text, media_type)

    async def server(self, _: Request) -> Response:
        """Return the server's metadata."""
        return respond_json({"name": "hiif-deploy", "version": __version__, "extensions": []})

    async def model(self, request: Request) -> Response:
        """Return a model's metadata. A picture goes to /v1/upscale: the protocol's tensors would be 40 times larger."""
        name = self._name(request)
        upscaler = self._studio.models.own(name).upscaler
        picture = {"datatype": "UINT8", "shape": [-1, -1, 3]}
        return respond_json(
            {
                "name": name,
                "versions": ["1"],
                "platform": "hiif-deploy",
                "inputs": [{"name": "picture", **picture}],
                "outputs": [{"name": "upscaled", **picture}],
                "parameters": {
                    "decoder": upscaler.contract.model["name"],
                    "engine": upscaler.description,
                    "precisions": self._studio.models.precisions(name),
                    "weights": upscaler.contract.parameters,
                },
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Say whether a model is open; all are from the start on."""
        return respond_json({"name": self._name(request), "ready": True})

    def _name(self, request: Request) -> str:
        name: str = request.path_params["model"]
        return self._studio.models.own(name).name
