"""Prometheus metrics of a server."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hiif_deploy.support.version import __version__

STAGES = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
"""Upper bounds of the buckets, in seconds."""


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry, "namespace": "hiif"}
        self._gauge = Gauge
        Info("build", "Version of hiif-deploy", **own).info({"version": __version__})
        self._requests = Counter("requests", "Responses by route and status", ["route", "status"], **own)
        self._seconds = Histogram("request_seconds", "Seconds to a response", ["route"], buckets=STAGES, **own)
        self._stages = Histogram("stage_seconds", "Seconds of work by stage", ["stage"], buckets=STAGES, **own)
        self._pixels = Counter("rendered_megapixels", "Output megapixels of models", **own)
        self._caches = Counter("cache_lookups", "Lookups by cache and result", ["cache", "result"], **own)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a value that is read when the metrics are."""
        self._gauge(name, text, namespace="hiif", registry=self._registry).set_function(read)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def cache(self, name: str, *, hit: bool) -> None:
        """Count a lookup."""
        self._caches.labels(name, "hit" if hit else "miss").inc()

    def megapixels(self, pixels: int) -> None:
        """Count rendered pixels."""
        self._pixels.inc(pixels / 1e6)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds of a stage."""
        began = time.perf_counter()
        yield
        self._stages.labels(name).observe(time.perf_counter() - began)

    def text(self) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' format, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
