"""Where the time of an upscaler goes: its progress tells the stages apart, and each graph of the host is timed.

The last fold, which is tiny, counts as decoding: its pass has reported all of its steps by then.
"""

import threading
import time
from collections import defaultdict
from typing import Any

from numpy.typing import NDArray

from hiif_deploy.decoding.job import Window
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.geometry.sizes import Size

STAGES = ("encode", "tables", "maps", "statistics", "decode", "conversion")
"""What `Stopwatch.split` reports, in this order."""
PHASES = ("encode", "statistics", "decode")
"""In the order in which an upscaler reports its steps."""


class Stopwatch:
    """Seconds of each phase since `start`, and of each graph inside it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.start({})

    def start(self, steps: dict[str, int]) -> None:
        """Forget everything. `steps` is the number of steps of each phase."""
        self._left = dict(steps)
        self._last = time.perf_counter()
        self.phases: dict[str, float] = defaultdict(float)
        """Seconds of each phase."""
        self._graphs: dict[tuple[str, str], float] = defaultdict(float)

    @property
    def phase(self) -> str:
        """The first one with steps left; the last one when all are done."""
        return next((phase for phase in PHASES if self._left.get(phase, 0) > 0), PHASES[-1])

    def advance(self, steps: int) -> None:
        """An upscaler's progress: the time since the last step belongs to the phase that this one is of."""
        now, phase = time.perf_counter(), self.phase
        self.phases[phase] += now - self._last
        self._left[phase] = self._left.get(phase, 0) - steps
        self._last = now

    def add(self, graph: str, seconds: float) -> None:
        """A graph ran on one of the threads."""
        with self._lock:
            # `finish-uint8` and `finish-colours` are one stage.
            self._graphs[self.phase, graph.partition("-")[0]] += seconds

    def wrap(self, graph: str, session: Session) -> Session:
        """Session whose calls are timed under the graph's name."""
        return _TimedSession(graph, session, self)

    def split(self, total: float, table: float, passes: int, calls: int) -> dict[str, float]:
        """Seconds of every stage, summing up to `total`. `table` is one pass's tables; `calls` run at once."""
        maps = {phase: self._graphs[phase, "maps"] / calls for phase in ("statistics", "decode")}
        finish = self._graphs["decode", "finish"] / calls
        found = {
            "encode": self.phases["encode"],
            "tables": (passes + 1) * table,
            "maps": sum(maps.values()),
            "statistics": self.phases["statistics"] - maps["statistics"] - passes * table if passes else 0.0,
            "decode": self.phases["decode"] - maps["decode"] - table - finish,
        }
        return {**found, "conversion": total - sum(found.values())}


class _TimedSession:
    def __init__(self, graph: str, session: Session, watch: Stopwatch) -> None:
        self._graph, self._session, self._watch = graph, session, watch

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        began = time.perf_counter()
        found = self._session.run(feeds)
        self._watch.add(self._graph, time.perf_counter() - began)
        return found


def table_seconds(contract: Any, source: Size, size: Size) -> float:
    """Seconds of one pass's row and column tables, the best of three."""
    window = Window((0, size[0]), (0, size[1]))
    found = []
    for _ in range(3):
        began = time.perf_counter()
        query_axes(contract, source, size, window)
        found.append(time.perf_counter() - began)
    return min(found)
