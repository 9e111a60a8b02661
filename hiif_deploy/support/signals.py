"""SIGTERM ends a command as Ctrl-C does: what it was at is cleaned up, and what it kept is reported."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hiif_deploy.errors import Terminated


@dataclass
class Termination:
    """Whether SIGTERM came."""

    came: bool = False


@contextmanager
def keep_sigterm() -> Iterator[None]:
    """Give SIGTERM back to whoever handles it, where a library takes it within: Ray ends the process by itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and before not in (signal.SIG_DFL, None):
            signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[Termination]:
    """Within it the first SIGTERM raises `Terminated`, and further ones do not disturb what that cleans up.

    Only in the main thread, and only where nobody else handles SIGTERM or has it ignored.
    """
    found = Termination()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield found
        return
    owner = os.getpid()

    def stop(*_: Any) -> None:
        if os.getpid() != owner:
            # A forked child inherits the handler: it has nothing to clean up, and whoever ends it waits for its end.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif not found.came:
            found.came = True
            raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield found
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
