"""A bound on what a file's plain data unfolds to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_DEPTH = 64
MOST_VALUES = 1 << 20


def check_nesting(value: Any) -> None:
    """ValueError for containers in each other deeper than `MOST_DEPTH`, or with more than `MOST_VALUES` values.

    A value that several containers share is counted for each: whoever prints or copies the whole meets it as often.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        current, depth = waiting.pop()
        count += 1
        if depth > MOST_DEPTH or count > MOST_VALUES:
            raise ValueError(f"nested deeper than {MOST_DEPTH} levels, or with more than {MOST_VALUES} values")
        inner: Any = ()
        if isinstance(current, Mapping):
            inner = (*current.keys(), *current.values())
        elif isinstance(current, list | tuple | set | frozenset):
            inner = current
        waiting.extend((entry, depth + 1) for entry in inner)
