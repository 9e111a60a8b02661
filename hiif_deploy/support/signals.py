"""Makes SIGTERM end a command as Ctrl-C does: with cleanup, and a report of what is saved."""

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
    """Records whether SIGTERM was received."""

    came: bool = False


@contextmanager
def keep_sigterm() -> Iterator[None]:
    """Restore the SIGTERM handler that a library replaces within the block: Ray would end the process itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and before not in (signal.SIG_DFL, None):
            signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[Termination]:
    """Within the block the first SIGTERM raises `Terminated`; further ones do not interrupt the cleanup.

    Only in the main thread, and only where SIGTERM has its default action.
    """
    found = Termination()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield found
        return
    owner = os.getpid()

    def stop(*_: Any) -> None:
        if os.getpid() != owner:
            # A forked child inherits the handler, but has nothing to clean up, and its parent waits for its end.
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
