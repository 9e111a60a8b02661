"""Work that many ask for and that is done once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0
    """How many wait for the result."""


class SingleFlight(Generic[T]):
    """Runs one coroutine per key at a time, and gives its result to all who asked meanwhile."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def run(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of `make()`, or of the one that runs under `key`.

        Whoever is cancelled leaves the work to the others; the last one cancels it.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(make()))
            flight.task.add_done_callback(lambda task: self._end(key, task))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                self._end(key, flight.task)
                flight.task.cancel()

    def _end(self, key: Hashable, task: asyncio.Task[T]) -> None:
        """Let the next one who asks begin anew."""
        if key in self._flights and self._flights[key].task is task:
            del self._flights[key]
        if task.done() and not task.cancelled():
            # Reading it keeps asyncio from logging errors of work whose clients have all left.
            task.exception()
