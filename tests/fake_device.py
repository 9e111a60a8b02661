"""Host memory that poses as a GPU and is as unhelpful as CUDA allows, so that a forgotten synchronisation shows.

CUDA promises only an order; which of the permitted orders happens is luck. `FakeDevice` takes the bad luck:

    late    queued work runs only when something forces it, and nothing else runs with it
    rivals  as `late`, but all other streams first run as far as their own waits let them
    early   work runs the moment it is queued

Code is right if its results are the same under all three. Errors that CUDA reports are `EngineError`, as on a GPU;
errors that CUDA leaves undefined are `MisuseError`, which no `except EngineError` swallows and which `close` repeats.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fake_memory import FREED_BYTE, FRESH_BYTE, Block, FakeMemory, MisuseError, Span
from fake_stream import Place, Queue, Work, no_work
from hiif_deploy.backends.cuda.device import DeviceFacts
from hiif_deploy.errors import EngineError

__all__ = ["FREED_BYTE", "FRESH_BYTE", "SCHEDULES", "FakeDevice", "MisuseError", "Schedule"]

Schedule = Literal["late", "rivals", "early"]
SCHEDULES: tuple[Schedule, ...] = ("late", "rivals", "early")
"""All of them, to parametrise a test with."""

FACTS = DeviceFacts(gpu="Fake GPU", capability="8.9", driver="13.0", memory=8 << 30)


class FakeDevice:
    """A `Device` on the host. `live` and `total` count memory, pinned, stream and event."""

    def __init__(
        self,
        *,
        facts: DeviceFacts = FACTS,
        memory_limit: int | None = None,
        schedule: Schedule = "late",
        log_size: int | None = 10_000,
    ) -> None:
        self.layer = "fake 1.0"
        self.schedule = schedule
        self.total: Counter[str] = Counter()
        self.copied: Counter[str] = Counter()
        """Bytes that were queued for upload and download."""
        self.needs_current = False
        """Whether a double's work may be queued only where the device is current."""
        self.peak_bytes = 0
        self.memory = FakeMemory()
        self.queued: deque[tuple[str, int]] = deque(maxlen=log_size)
        """(operation, stream handle) in the order of the calls."""
        self.ran: deque[str] = deque(maxlen=log_size)
        """Operations in the order in which they ran."""
        self._facts = facts
        self._limit = facts.memory if memory_limit is None else memory_limit
        self._live: dict[int, tuple[str, Callable[[], object]]] = {}
        """Address or handle → its kind, and what gives it back."""
        self._queues: dict[int, Queue] = {}
        self._events: dict[int, Place | None] = {}
        """Where each was last recorded."""
        self._numbers = itertools.count(0x5000, 0x10)
        self._current = threading.local()
        self._closed = False
        self._lock = threading.RLock()

    # What a test looks at

    @property
    def live(self) -> Counter[str]:
        """How many of each kind are handed out now."""
        return Counter(kind for kind, _ in self._live.values())

    @property
    def live_bytes(self) -> int:
        """GPU memory in use now."""
        return sum(block.span.size for block in self.memory.blocks.values())

    def from_address(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Bytes of GPU memory now, as a view; MisuseError where they are not all within one live allocation."""
        return self.memory.view(Span(address, nbytes))

    def enqueue(
        self, stream_handle: int, name: str, function: Callable[[], None], spans: Iterable[tuple[int, int]] = ()
    ) -> None:
        """Queue a double's work by stream handle. `spans` are the (address, size) that it uses: not to be freed."""
        if self.needs_current and not getattr(self._current, "depth", 0):
            self.memory.misuse(f"{name} is queued by a thread in which the device is not current")
        self._queue(stream_handle, Work(name, function, tuple(Span(*span) for span in spans)))

    # Memory

    def facts(self) -> DeviceFacts:
        """As given."""
        self._open()
        return self._facts

    @contextmanager
    def current(self) -> Iterator[None]:
        """For the calling thread; a double's work outside is MisuseError."""
        depth = getattr(self._current, "depth", 0)
        self._current.depth = depth + 1
        try:
            yield
        finally:
            self._current.depth = depth

    def allocate(self, size: int) -> int:
        """Filled with FRESH_BYTE."""
        self._open()
        if self.live_bytes + size > self._limit:
            raise EngineError(f"{self.layer}: out of memory")
        block = self.memory.new(size)
        self.memory.blocks[block.span.address] = block
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return self._hand_out("memory", block.span.address, lambda: self._retire(block))

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Filled with FRESH_BYTE."""
        self._open()
        block = self.memory.new(size)
        self._hand_out("pinned", block.span.address, lambda: self._retire(block))
        return block.data

    def free(self, address: int) -> None:
        """Memory, and what no layer frees alone: streams and events. MisuseError where queued work still uses it."""
        self._open()
        self._live[address][1]()
        del self._live[address]

    def upload(self, target: int, source: NDArray[Any], stream: int) -> None:
        """The host is read when the work runs."""
        host, span = self.memory.host(source), Span(target, source.nbytes)
        self.copied["upload"] += source.nbytes
        function = lambda: np.copyto(self.from_address(target, span.size), host())  # noqa: E731
        self._queue(stream, Work("upload", function, (span,), (Span(source.ctypes.data, span.size),)))

    def download(self, target: NDArray[Any], source: int, stream: int) -> None:
        """The host is written when the work runs."""
        host, span = self.memory.host(target), Span(source, target.nbytes)
        self.copied["download"] += target.nbytes
        function = lambda: np.copyto(host(), self.from_address(source, span.size))  # noqa: E731
        self._queue(stream, Work("download", function, (span,), (Span(target.ctypes.data, span.size),)))

    def clear(self, target: int, size: int, stream: int) -> None:
        """Zeros."""
        function = lambda: self.from_address(target, size).fill(0)  # noqa: E731
        self._queue(stream, Work("clear", function, (Span(target, size),)))

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: int
    ) -> None:
        """Row by row."""
        assert width <= min(target_pitch, source_pitch)

        def function() -> None:
            for row in range(height):
                line = self.from_address(source + row * source_pitch, width)
                self.from_address(target + row * target_pitch, width)[...] = line

        sides = ((target, target_pitch), (source, source_pitch))
        spans = tuple(Span(address, (height - 1) * pitch + width) for address, pitch in sides)
        self._queue(stream, Work("copy_rows", function, spans))

    # Streams and events

    def stream(self) -> int:
        """What `enqueue` takes."""
        self._open()
        stream = next(self._numbers)
        self._queues[stream] = Queue()
        return self._hand_out("stream", stream, lambda: self._end_stream(stream))

    def event(self) -> int:
        """Not recorded yet."""
        self._open()
        event = next(self._numbers)
        self._events[event] = None
        return self._hand_out("event", event, lambda: self._events.pop(event))

    def record(self, event: int, stream: int) -> None:
        """At what is queued on the stream by now."""
        assert event in self._events
        queue = self._queue(stream, Work("record", no_work))
        self._events[event] = Place(queue, queue.queued)

    def wait(self, stream: int, event: int) -> None:
        """For the place where the event is recorded now, wherever it is recorded later."""
        self._queue(stream, Work("wait", no_work, after=self._events[event]))

    def synchronize_event(self, event: int) -> None:
        """Forces what was queued before it was recorded."""
        self._open()
        place = self._events[event]
        if place is not None:
            self._force(place)

    def synchronize(self, stream: int | None = None) -> None:
        """Forces all that is queued."""
        self._open()
        for queue in list(self._queues.values()) if stream is None else [self._queues[stream]]:
            self._force(Place(queue, queue.queued))

    def close(self) -> None:
        """Runs all work, checks all guards; MisuseError where there was any before."""
        if self._closed:
            return
        self.synchronize()
        for address in reversed(list(self._live)):
            self.free(address)
        self._closed = True
        if self.memory.misuses:
            raise MisuseError(f"misused before: {self.memory.misuses[0]}")

    # Inside

    def _queue(self, handle: int, work: Work) -> Queue:
        with self._lock:
            self._open()
            queue = self._queues[handle]
            for span in work.device:
                self.memory.view(span)
            self.queued.append((work.name, handle))
            queue.pending.append(work)
            queue.queued += 1
            if self.schedule == "early":
                self._run(Place(queue, queue.queued))
            return queue

    def _force(self, place: Place) -> None:
        with self._lock:
            if self.schedule == "rivals":
                while any(self._run_rival(queue) for queue in self._queues.values() if queue is not place.queue):
                    pass
            self._run(place)

    def _run_rival(self, queue: Queue) -> bool:
        """Run the next work of a queue if nothing holds it back."""
        if not queue.pending or ((after := queue.pending[0].after) is not None and not after.reached):
            return False
        self._run(Place(queue, queue.done + 1))
        return True

    def _run(self, place: Place) -> None:
        queue = place.queue
        while not place.reached:
            if (after := queue.pending[0].after) is not None:
                self._run(after)
            work = queue.pending.popleft()
            queue.done += 1
            self.ran.append(work.name)
            work.function()

    def _retire(self, block: Block) -> None:
        """MisuseError where queued work still uses it."""
        for queue in self._queues.values():
            for work in queue.pending:
                if any(block.span.overlaps(used) for used in (*work.host, *work.device)):
                    self.memory.misuse(f"{block.span} is freed while queued work still uses it: {work.name}")
        self.memory.retire(block)

    def _end_stream(self, stream: int) -> None:
        if self._queues.pop(stream).pending:
            self.memory.misuse(f"stream {stream:#x} is freed with work left: synchronise first")

    def _open(self) -> None:
        if self._closed:
            raise EngineError(f"{self.layer} is closed")

    def _hand_out(self, kind: str, key: int, release: Callable[[], object]) -> int:
        self.total[kind] += 1
        self._live[key] = kind, release
        return key
