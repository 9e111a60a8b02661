"""States of queries kept from one pass for the next, as far as memory is granted."""

import threading
from typing import Any

from numpy.typing import NDArray

Key = tuple[int, ...]
"""Names a block of queries."""


class StateCache:
    """A store of bounded size. What does not fit is not kept, and its pass computes it again. Thread-safe."""

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes; 0 keeps nothing."""
        self._left = capacity
        self._kept: dict[Key, tuple[int, NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def put(self, key: Key, step: int, state: NDArray[Any]) -> None:
        """Keep the state of that step, instead of any earlier one of the same queries, if there is room."""
        with self._lock:
            self._drop(key)
            if state.nbytes <= self._left:
                self._left -= state.nbytes
                self._kept[key] = (step, state)

    def take(self, key: Key) -> tuple[int, NDArray[Any]] | None:
        """The step and the state that were kept last, which is forgotten here; None where there is none."""
        with self._lock:
            return self._drop(key)

    def _drop(self, key: Key) -> tuple[int, NDArray[Any]] | None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._left += found[1].nbytes
        return found
