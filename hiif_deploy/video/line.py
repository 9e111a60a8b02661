"""Threads that work side by side, joined by bounded queues; the first error ends all of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

WAIT = 0.1
"""Seconds after which a waiting thread looks whether work has ended."""


class StoppedError(Exception):
    """Another thread has ended the work."""


class Channel:
    """A bounded queue that does not outlive its line."""

    def __init__(self, line: Line, size: int) -> None:
        self._line = line
        self._queue: queue.Queue[Any] = queue.Queue(size)

    @property
    def fill(self) -> int:
        """Items that wait in it."""
        return self._queue.qsize()

    def put(self, item: Any) -> None:
        """Waits while it is full. StoppedError where the line ended."""
        while True:
            self._line.check()
            try:
                return self._queue.put(item, timeout=WAIT)
            except queue.Full:
                continue

    def get(self) -> Any:
        """Waits while it is empty. StoppedError where the line ended."""
        while True:
            self._line.check()
            try:
                return self._queue.get(timeout=WAIT)
            except queue.Empty:
                continue

    def get_ready(self) -> list[Any]:
        """What is there now, without waiting."""
        found = []
        while True:
            try:
                found.append(self._queue.get_nowait())
            except queue.Empty:
                return found


class Line:
    """Context manager: whatever happens inside, its threads end with it."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.error: BaseException | None = None
        """The first that one of the threads raised."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        # The thread that waits learns only that another one failed; the reason is what the caller wants.
        if isinstance(error, StoppedError) and self.error is not None:
            raise self.error

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a thread."""
        thread = threading.Thread(target=self._run, args=(work,), name=f"hiif-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def check(self) -> None:
        """StoppedError where the work has ended."""
        if self._ended.is_set():
            raise StoppedError

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except StoppedError:
            pass
        except BaseException as error:
            self.error = self.error or error
            self._ended.set()
