"""Where the time of an upscaler goes: a stopwatch around its backend and its graphs."""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from hiif_deploy.backends.base import Backend
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.onnxruntime_device import DeviceBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.rendering.open_engine import open_backend

STAGES = ("encode", "tables", "maps", "statistics", "decode", "conversion")
"""What `Stopwatch.split` reports, in this order."""
CALLS = {"encode": "encode", "statistics": "statistics"}
"""Method of a backend → the stage that its time counts for."""
PARTS = ("colours", "frames")
"""Methods of a backend that yield parts of a decoded picture."""


class Stopwatch:
    """Seconds since `reset`: of the backend's calls, and of each graph inside them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._call = ""
        self.calls: dict[str, float] = defaultdict(float)
        """Seconds of each of the backend's calls."""
        self._graphs: dict[tuple[str, str], float] = defaultdict(float)

    def begin(self, call: str) -> float:
        """A call of the backend starts; returns now."""
        self._call = call
        return time.perf_counter()

    def end(self, began: float) -> None:
        """It ends."""
        self.calls[self._call] += time.perf_counter() - began

    def add(self, graph: str, seconds: float) -> None:
        """A graph ran on one of the threads."""
        with self._lock:
            self._graphs[self._call, graph] += seconds

    def split(self, total: float, table: float, passes: int, calls: int) -> dict[str, float]:
        """Seconds of every stage, summing up to `total`. `table` is one pass's tables; `calls` run at once."""
        maps = {call: self._graphs[call, "maps"] / calls for call in ("statistics", "decode")}
        statistics = self.calls["statistics"] - maps["statistics"] - passes * table
        found = {
            "encode": self.calls["encode"],
            "tables": (passes + 1) * table,
            "maps": sum(maps.values()),
            "statistics": statistics if passes else 0.0,
            "decode": self.calls["decode"] - maps["decode"] - table,
        }
        return {**found, "conversion": total - sum(found.values())}


class _WatchedSession:
    def __init__(self, graph: str, session: Session, watch: Stopwatch) -> None:
        self._graph, self._session, self._watch = graph, session, watch

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        began = time.perf_counter()
        found = self._session.run(feeds)
        self._watch.add(self._graph, time.perf_counter() - began)
        return found


def open_watched(bundle: Bundle, options: EngineOptions, watch: Stopwatch) -> Backend:
    """The backend that `options` name, of its own class, its calls timed; maps apart where they are arrays of the host.

    Upscalers choose the block size and the way of finishing frames by the backend's class, so a wrapper of another
    class would measure something else than what users get.
    """
    backend = open_backend(bundle, options)
    if isinstance(backend, HostBackend) and not isinstance(backend, DeviceBackend):
        sessions = backend.decoder.sessions
        sessions.update({name: _WatchedSession(name, session, watch) for name, session in sessions.items()})
    for name, stage in CALLS.items():
        if hasattr(backend, name):
            setattr(backend, name, _timed(getattr(backend, name), stage, watch))
    for name in PARTS:
        if hasattr(backend, name):
            setattr(backend, name, _timed_parts(getattr(backend, name), watch))
    return backend


def _timed(call: Callable[..., Any], stage: str, watch: Stopwatch) -> Callable[..., Any]:
    @functools.wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = watch.begin(stage)
        found = call(*args, **kwargs)
        watch.end(began)
        return found

    return timed


def _timed_parts(call: Callable[..., Iterator[Any]], watch: Stopwatch) -> Callable[..., Iterator[Any]]:
    """What the caller does with a part does not count."""

    @functools.wraps(call)
    def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        parts = call(*args, **kwargs)
        while True:
            began = watch.begin("decode")
            part = next(parts, None)
            watch.end(began)
            if part is None:
                return
            yield part

    return timed


def table_seconds(job_contract: Any, source: Size, size: Size) -> float:
    """Seconds of one pass's row and column tables, the best of three."""
    window = Window((0, size[0]), (0, size[1]))
    found = []
    for _ in range(3):
        began = time.perf_counter()
        query_axes(job_contract, source, size, window)
        found.append(time.perf_counter() - began)
    return min(found)
