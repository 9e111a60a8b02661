"""A bounded queue of work in threads of its own, with a limit of time and a way to stop it."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hiif_deploy.server.web import RequestError

T = TypeVar("T")


class StoppedError(RequestError):
    """Work that ended early: it took too long, or nobody wants it any more."""


class Progress:
    """Counts finished steps of work, and ends it at its next step where it shall stop. Given as `advance`."""

    def __init__(self, seconds: float) -> None:
        """`seconds` that the work may take from its first step on."""
        self._seconds = seconds
        self._ends: float | None = None
        self._stopped = threading.Event()
        self.done = 0
        """Finished steps."""

    def __call__(self, count: int = 0) -> None:
        """Count finished steps. StoppedError where the work was stopped or its time is over."""
        self.done += count
        if self._stopped.is_set():
            raise StoppedError(499, "the work was cancelled")
        if self._ends is None:
            self._ends = time.monotonic() + self._seconds
        elif time.monotonic() > self._ends:
            raise StoppedError(504, f"the work took longer than {self._seconds:g} seconds, the limit of this server")

    def stop(self) -> None:
        """End the work at its next step."""
        self._stopped.set()


class WorkQueue:
    """Runs functions one after the other, where each takes all cores that the model may use, or in a few threads."""

    def __init__(self, name: str, limit: int, seconds: float, retry_seconds: int = 5, threads: int = 1) -> None:
        """At most `limit` functions wait, and each runs `seconds` at most; who is refused shall come back later."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = limit
        self._seconds = seconds
        self._retry_seconds = retry_seconds
        self._running: set[Progress] = set()
        self._is_closed = False

    @property
    def length(self) -> int:
        """Functions that run or wait."""
        return len(self._running)

    @property
    def is_full(self) -> bool:
        """Whether another function would be refused."""
        return self._is_closed or self.length > self._limit

    def reserve(self) -> Progress:
        """Take a place in the queue, which `run` or `release` gives back. RequestError 503 where there is none."""
        if self.is_full:
            reason = f"{self.length} requests wait already; try again later"
            raise RequestError(503, reason, {"Retry-After": str(self._retry_seconds)})
        progress = Progress(self._seconds)
        self._running.add(progress)
        return progress

    def release(self, progress: Progress) -> None:
        """Give a place back."""
        self._running.discard(progress)

    async def run(self, work: Callable[[Progress], T], place: Progress | None = None) -> T:
        """Return `work(progress)`, run in a thread, in a place that was reserved or in a new one (see `reserve`)."""
        progress = place or self.reserve()

        def begin() -> T:
            progress()  # It may have been stopped while it waited.
            return work(progress)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, begin)
        except asyncio.CancelledError:
            progress.stop()
            raise
        finally:
            self.release(progress)

    def close(self) -> None:
        """Stop what runs and waits, and wait for the thread's end."""
        self._is_closed = True
        for progress in list(self._running):
            progress.stop()
        self._pool.shutdown()
