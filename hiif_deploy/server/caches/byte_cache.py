"""A cache in memory that is bounded by bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class ByteCache(Generic[T]):
    """Keeps the values that were used last, within a budget of bytes. Thread-safe."""

    def __init__(self, budget: int, weigh: Callable[[T], int]) -> None:
        """`weigh` returns the bytes of a value."""
        self.budget = budget
        self._weigh = weigh
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0
        """Bytes of all values."""

    def get(self, key: Hashable) -> T | None:
        """Return a value, which becomes the most recent one."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: Hashable, value: T) -> None:
        """Keep a value; older ones make room for it. One that is larger than the budget is not kept."""
        size = self._weigh(value)
        with self._lock:
            self._drop(key)
            if size > self.budget:
                return
            while self.bytes + size > self.budget:
                self._drop(next(iter(self._values)))
            self._values[key] = value
            self.bytes += size

    def __len__(self) -> int:
        return len(self._values)

    def _drop(self, key: Hashable) -> None:
        old = self._values.pop(key, None)
        if old is not None:
            self.bytes -= self._weigh(old)
