"""Threads joined by bounded queues; the first error ends all of them."""

import queue
import threading
from collections.abc import Callable
from typing import Any, Self

WAIT = 0.1
"""Seconds between a waiting thread's checks whether work has ended."""


class StoppedError(Exception):
    """Another thread has ended the work."""


class Pipeline:
    """Context manager that joins its threads on exit, after an error too."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.error: BaseException | None = None
        """First exception that one of the threads raised."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        # The waiting thread got StoppedError only; the caller needs the error of the thread that failed.
        if isinstance(error, StoppedError) and self.error is not None:
            raise self.error

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a thread of the pipeline."""
        thread = threading.Thread(target=self._run, args=(work,), name=f"hiif-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def check(self) -> None:
        """Raise StoppedError where the work has ended."""
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


class BoundedQueue:
    """A queue of limited length that raises StoppedError when its pipeline ends."""

    def __init__(self, pipeline: Pipeline, size: int) -> None:
        self._pipeline = pipeline
        self._queue: queue.Queue[Any] = queue.Queue(size)

    @property
    def fill(self) -> int:
        """Number of items in the queue."""
        return self._queue.qsize()

    def put(self, item: Any) -> None:
        """Append an item, waiting while the queue is full. StoppedError where the pipeline ended."""
        while True:
            self._pipeline.check()
            try:
                return self._queue.put(item, timeout=WAIT)
            except queue.Full:
                continue

    def get(self) -> Any:
        """Return the next item, waiting while the queue is empty. StoppedError where the pipeline ended."""
        while True:
            self._pipeline.check()
            try:
                return self._queue.get(timeout=WAIT)
            except queue.Empty:
                continue

    def get_ready(self) -> list[Any]:
        """Return all items that are in the queue now, without waiting."""
        found = []
        while True:
            try:
                found.append(self._queue.get_nowait())
            except queue.Empty:
                return found
