"""Threads that share the parts of one call of native code: who has no work of its own helps the others with theirs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WAKE_MACS = 1 << 20
"""Multiplications that a thread computes while Python wakes another one, about 20 µs. They wake one after the other: n
threads are at work after n times that, and m multiplications take each of them m / n, least in all for n = √m."""

LOST_SECONDS = 1.0
"""After which a thread looks by itself whether its phase is over: Ctrl-C may keep the main thread from waking it."""


@dataclass(eq=False)
class SharedCall:
    """A call that several threads make at once, each taking parts until none is left."""

    take: Callable[[], None]
    """Computes parts that no other thread has taken; returns when there are none."""
    helpers: int = 0
    """Number of threads that are at it, beside the one whose call it is."""
    error: BaseException | None = None
    """Error of one of them."""


class Crew:
    """The calls that are being made, and the threads that wait to help with one. Thread-safe."""

    def __init__(self) -> None:
        # Locked by itself: a Condition is entered by a Python function, which Ctrl-C may leave with the lock held.
        self._lock = threading.Lock()
        self._changed, self._finished = threading.Condition(self._lock), threading.Condition(self._lock)
        self._calls: list[SharedCall] = []

    def run(self, take: Callable[[], None], macs: int) -> None:
        """Make a call of so many multiplications; threads that wait take part in it. All parts are computed then.

        Not for the main thread where it has helpers: Ctrl-C would end it while they still compute.
        """
        threads = math.isqrt(macs // WAKE_MACS)
        if threads < 2:
            take()
            return
        call = SharedCall(take)
        with self._lock:
            self._calls.append(call)
            self._changed.notify(threads - 1)
        try:
            take()
        finally:
            with self._lock:
                self._withdraw(call)
                self._finished.wait_for(lambda: call.helpers == 0)
        if call.error is not None:
            raise call.error

    @contextmanager
    def phase(self) -> Iterator[Phase]:
        """Return a new phase, which is over at the latest when the context is left."""
        phase = Phase(self._lock, self._changed)
        try:
            yield phase
        finally:
            phase.close()

    def help(self, phase: Phase) -> None:
        """Take part in calls, those of other phases too, until this phase is over."""
        while (call := self._next(phase)) is not None:
            try:
                call.take()
            except BaseException as error:  # the thread whose call it is raises it
                call.error = error
            with self._lock:
                self._withdraw(call)
                call.helpers -= 1
                self._finished.notify_all()

    def _next(self, phase: Phase) -> SharedCall | None:
        """Wait for a call, and return it; None once the phase is over."""
        with self._lock:
            while not (self._calls or phase.is_over):
                self._changed.wait(LOST_SECONDS)
            if phase.is_over:
                return None
            call = self._calls[0]
            call.helpers += 1
            return call

    def _withdraw(self, call: SharedCall) -> None:
        """Offer a call no longer: the first thread that comes back from it found no part left."""
        if call in self._calls:
            self._calls.remove(call)


class Phase:
    """Works that may be helped with, such as the tiles of a pass: it is over once all that have begun have finished."""

    def __init__(self, lock: threading.Lock, changed: threading.Condition) -> None:
        """`lock` is that of the condition."""
        self._lock, self._changed = lock, changed
        self._unfinished, self._closed = 0, False

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to help with."""
        return self._closed or self._unfinished == 0

    def begin(self) -> None:
        """Count a work that will be finished."""
        with self._lock:
            self._unfinished += 1

    def finish(self) -> None:
        """Count a work that is finished."""
        with self._lock:
            self._unfinished -= 1
            self._wake()

    def close(self) -> None:
        """End the phase, whether its works are finished or not."""
        self._closed = True
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        if self.is_over:
            self._changed.notify_all()
