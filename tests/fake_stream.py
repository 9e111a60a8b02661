"""What is queued on the streams of a `FakeDevice`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fake_memory import Span


@dataclass
class Queue:
    """What a stream has yet to do."""

    pending: deque[Work] = field(default_factory=deque)
    queued: int = 0
    done: int = 0


@dataclass(frozen=True)
class Place:
    """A point in a queue: all that was queued before it."""

    queue: Queue
    position: int

    @property
    def reached(self) -> bool:
        """Whether all before it is done."""
        return self.queue.done >= self.position


@dataclass(frozen=True)
class Work:
    """One queued operation."""

    name: str
    function: Callable[[], None]
    device: tuple[Span, ...] = ()
    host: tuple[Span, ...] = ()
    after: Place | None = None


def no_work() -> None:
    """Of a record or a wait, of which only the place matters."""
