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
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fake_memory import FREED_BYTE, FRESH_BYTE, FakeMemory, MisuseError, Span
from fake_stream import Place, Queue, Work, no_work
from hiif_deploy.backends.cuda.device import (
    DeviceFacts,
    Handles,
    Stream,
    host_bytes,
    out_of_memory,
    require_rows,
    require_size,
)
from hiif_deploy.errors import EngineError

__all__ = ["FREED_BYTE", "FRESH_BYTE", "SCHEDULES", "FakeDevice", "FakeEvent", "MisuseError", "Schedule"]

Schedule = Literal["late", "rivals", "early"]
SCHEDULES: tuple[Schedule, ...] = ("late", "rivals", "early")
"""All of them, to parametrise a test with."""

FACTS = DeviceFacts(gpu="Fake GPU", capability="8.9", driver="13.0", memory=8 << 30)


@dataclass(eq=False)
class FakeEvent:
    """Where it was last recorded."""

    place: Place | None = None


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
        self._handles = Handles(self.layer)
        self._queues: dict[int, Queue] = {}
        self._stream_handles = itertools.count(0x5000, 0x10)
        self._current = threading.local()
        self._closed = False
        self._lock = threading.RLock()

    # What a test looks at

    @property
    def live(self) -> Counter[str]:
        """How many of each kind are handed out now."""
        return self._handles.count()

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
        require_size(self.layer, size)
        if self.live_bytes + size > self._limit:
            raise out_of_memory(self.layer, size, self._limit - self.live_bytes, self._limit)
        block = self.memory.new(size)
        self._hand_out("memory", block.span.address, lambda: self.memory.retire(block))
        self.memory.blocks[block.span.address] = block
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return block.span.address

    def free(self, address: int) -> None:
        """MisuseError where queued work still uses it."""
        self._open()
        self._handles.require("memory", address)
        self._not_in_use(self.memory.blocks[address].span, host=False)
        self._handles.release("memory", address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Filled with FRESH_BYTE."""
        self._open()
        require_size(self.layer, size)
        block = self.memory.new(size)
        self._hand_out("pinned", block.span.address, lambda: self.memory.retire(block))
        return block.data

    def free_pinned(self, block: NDArray[np.uint8]) -> None:
        """MisuseError where queued work still uses it."""
        self._open()
        self._handles.require("pinned", block.ctypes.data)
        self._not_in_use(Span(block.ctypes.data, block.nbytes), host=True)
        self._handles.release("pinned", block.ctypes.data)

    def upload(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """The host is read when the work runs."""
        host, span = self.memory.host(host_bytes(self.layer, source, writable=False)), Span(target, source.nbytes)
        self.copied["upload"] += source.nbytes
        function = lambda: np.copyto(self.from_address(target, span.size), host())  # noqa: E731
        self._queue(stream.handle, Work("upload", function, (span,), (Span(source.ctypes.data, span.size),)))

    def download(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """The host is written when the work runs."""
        host, span = self.memory.host(host_bytes(self.layer, target, writable=True)), Span(source, target.nbytes)
        self.copied["download"] += target.nbytes
        function = lambda: np.copyto(host(), self.from_address(source, span.size))  # noqa: E731
        self._queue(stream.handle, Work("download", function, (span,), (Span(target.ctypes.data, span.size),)))

    def clear(self, target: int, size: int, stream: Stream) -> None:
        """Zeros."""
        function = lambda: self.from_address(target, size).fill(0)  # noqa: E731
        self._queue(stream.handle, Work("clear", function, (Span(target, size),)))

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: Stream
    ) -> None:
        """Row by row."""
        require_rows(self.layer, width, target_pitch, source_pitch)

        def function() -> None:
            for row in range(height):
                line = self.from_address(source + row * source_pitch, width)
                self.from_address(target + row * target_pitch, width)[...] = line

        sides = ((target, target_pitch), (source, source_pitch))
        spans = tuple(Span(address, (height - 1) * pitch + width) for address, pitch in sides)
        self._queue(stream.handle, Work("copy_rows", function, spans))

    # Streams and events

    def stream(self) -> Stream:
        """Its handle is what `enqueue` takes."""
        self._open()
        handle = next(self._stream_handles)
        self._queues[handle] = Queue()
        self._hand_out("stream", handle, lambda: self._queues.__delitem__(handle))
        return Stream(handle, handle)

    def free_stream(self, stream: Stream) -> None:
        """MisuseError where it has work left."""
        self._handles.require("stream", stream.handle)
        if self._queues[stream.handle].pending:
            self.memory.misuse(f"stream {stream.handle:#x} is freed with work left: synchronise first")
        self._handles.release("stream", stream.handle)

    def event(self) -> FakeEvent:
        """Not recorded yet."""
        self._open()
        event = FakeEvent()
        self._hand_out("event", id(event), lambda: _let_go(event))
        return event

    def free_event(self, event: FakeEvent) -> None:
        """Waits that are queued already keep their place."""
        self._handles.release("event", id(event))

    def record(self, event: FakeEvent, stream: Stream) -> None:
        """At what is queued on the stream by now."""
        self._handles.require("event", id(event))
        queue = self._queue(stream.handle, Work("record", no_work))
        event.place = Place(queue, queue.queued)

    def wait(self, stream: Stream, event: FakeEvent) -> None:
        """For the place where the event is recorded now, wherever it is recorded later."""
        self._handles.require("event", id(event))
        self._queue(stream.handle, Work("wait", no_work, after=event.place))

    def synchronize_event(self, event: FakeEvent) -> None:
        """Forces what was queued before it was recorded."""
        self._open()
        self._handles.require("event", id(event))
        if event.place is not None:
            self._force(event.place)

    def synchronize(self, stream: Stream) -> None:
        """Forces all that is queued."""
        self._open()
        queue = self._stream_queue(stream.handle)
        self._force(Place(queue, queue.queued))

    def synchronize_all(self) -> None:
        """As `cudaDeviceSynchronize`; a test that wants to know what every stream comes to may call it too."""
        self._open()
        for queue in list(self._queues.values()):
            self._force(Place(queue, queue.queued))

    def close(self) -> None:
        """Runs all work, checks all guards; MisuseError where there was any before."""
        if self._closed:
            return
        self.synchronize_all()
        self._handles.release_all()
        self._closed = True
        if self.memory.misuses:
            raise MisuseError(f"misused before: {self.memory.misuses[0]}")

    # Inside

    def _queue(self, handle: int, work: Work) -> Queue:
        with self._lock:
            queue = self._stream_queue(handle)
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

    def _not_in_use(self, span: Span, *, host: bool) -> None:
        for queue in self._queues.values():
            for work in queue.pending:
                if any(span.overlaps(used) for used in (work.host if host else work.device)):
                    self.memory.misuse(f"{span} is freed while queued work still uses it: {work.name}")

    def _stream_queue(self, handle: int) -> Queue:
        self._open()
        self._handles.require("stream", handle)
        return self._queues[handle]

    def _open(self) -> None:
        if self._closed:
            raise EngineError(f"{self.layer} is closed")

    def _hand_out(self, kind: str, key: int, release: Callable[[], None]) -> None:
        self.total[kind] += 1
        self._handles.add(kind, key, release)


def _let_go(thing: object) -> None:
    """Held by this release function till now, so that its id was its own."""
