"""Where the time of an upscaler goes: a stopwatch around its backend and its graphs."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from hiif_deploy.backend import Advance, Array, Backend, Encoded, HostBackend
from hiif_deploy.bundle import Bundle
from hiif_deploy.decode import Job, Statistics, Window, query_axes
from hiif_deploy.engine_choice import open_backend
from hiif_deploy.ort_backend import DeviceBackend
from hiif_deploy.plan import Plan
from hiif_deploy.session import Arithmetic, EngineOptions, Session, Tensors
from hiif_deploy.sizes import Size

STAGES = ("encode", "tables", "maps", "statistics", "decode", "conversion")
"""What `Stopwatch.split` tells, in this order."""


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


class WatchedBackend:
    """A backend with a stopwatch."""

    def __init__(self, backend: Backend, watch: Stopwatch) -> None:
        self._backend, self._watch = backend, watch
        self.description = backend.description
        self.steps = backend.steps
        self.close = backend.close

    @property
    def precision(self) -> Arithmetic:
        """See `Backend`."""
        return self._backend.precision

    @property
    def rescued(self) -> int:
        """See `Backend`."""
        return self._backend.rescued

    @property
    def memory_bytes(self) -> int:
        """See `Backend`."""
        return self._backend.memory_bytes

    def encode(self, image: Array, plan: Plan, advance: Advance) -> Encoded:
        """See `Backend`."""
        began = self._watch.begin("encode")
        features = self._backend.encode(image, plan, advance)
        self._watch.end(began)
        return features

    def statistics(self, job: Job, window: Window, advance: Advance) -> Statistics:
        """See `Backend`."""
        began = self._watch.begin("statistics")
        found = self._backend.statistics(job, window, advance)
        self._watch.end(began)
        return found

    def colours(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance
    ) -> Iterator[tuple[slice, slice, Array]]:
        """See `Backend`. What the caller does with a part does not count."""
        parts = self._backend.colours(job, window, statistics, advance)
        while True:
            began = self._watch.begin("decode")
            part = next(parts, None)
            self._watch.end(began)
            if part is None:
                return
            yield part


class _WatchedSession:
    def __init__(self, graph: str, session: Session, watch: Stopwatch) -> None:
        self._graph, self._session, self._watch = graph, session, watch

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        began = time.perf_counter()
        found = self._session.run(feeds)
        self._watch.add(self._graph, time.perf_counter() - began)
        return found


def open_watched(bundle: Bundle, options: EngineOptions, watch: Stopwatch) -> WatchedBackend:
    """The backend that `options` name; maps are told apart where they are arrays of the host."""
    backend = open_backend(bundle, options)
    if isinstance(backend, HostBackend) and not isinstance(backend, DeviceBackend):
        sessions = backend.decoder.sessions
        sessions.update({name: _WatchedSession(name, session, watch) for name, session in sessions.items()})
    return WatchedBackend(backend, watch)


def table_seconds(job_contract: Any, source: Size, size: Size) -> float:
    """Seconds of one pass's row and column tables, the best of three."""
    window = Window((0, size[0]), (0, size[1]))
    found = []
    for _ in range(3):
        began = time.perf_counter()
        query_axes(job_contract, source, size, window)
        found.append(time.perf_counter() - began)
    return min(found)
