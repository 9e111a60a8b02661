"""Sentences for the user, one at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable

Say = Callable[[str], None]
"""Takes one sentence for the user."""


def say_on_stderr(line: str) -> None:
    """Where messages go unless the caller wants them elsewhere."""
    print(line, file=sys.stderr, flush=True)
