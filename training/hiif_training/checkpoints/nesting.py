"""Limits the depth and number of values of plain data from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 64
MAX_VALUES = 1 << 20


def check_nesting(value: Any) -> None:
    """ValueError for containers nested deeper than `MAX_DEPTH`, or with more than `MAX_VALUES` values.

    A value that several containers share counts once for each, because printing or copying the whole visits it as
    often.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        current, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels, or with more than {MAX_VALUES} values")
        inner: Any = ()
        if isinstance(current, Mapping):
            inner = (*current.keys(), *current.values())
        elif isinstance(current, list | tuple | set | frozenset):
            inner = current
        waiting.extend((entry, depth + 1) for entry in inner)
