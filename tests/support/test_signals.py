"""SIGTERM ends a command as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from hiif_deploy.errors import TERMINATED, Terminated, WorkInterruptedError
from hiif_deploy.support.signals import keep_sigterm, sigterm_as_ctrl_c

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def default_sigterm() -> Iterator[None]:
    """Whatever the tests' own process does with it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_is_raised_once_and_does_not_disturb_what_cleans_up() -> None:
    cleaned = False
    with sigterm_as_ctrl_c() as termination:
        try:
            with pytest.raises(Terminated):
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert cleaned
    assert termination.came
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_where_it_is_ignored_or_handled_it_stays_so() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with sigterm_as_ctrl_c() as termination:
        os.kill(os.getpid(), signal.SIGTERM)
    assert not termination.came


def test_a_library_that_takes_it_and_then_fails_does_not_keep_it() -> None:
    def own(*_: object) -> None:
        """Of whoever handles it."""

    def fails() -> None:
        with keep_sigterm():
            signal.signal(signal.SIGTERM, lambda *_: None)
            raise ConnectionError

    signal.signal(signal.SIGTERM, own)
    with pytest.raises(ConnectionError):
        fails()
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_forked_child_ends_by_it() -> None:
    with sigterm_as_ctrl_c():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt("kept"), 130), (Terminated("kept"), TERMINATED)])
def test_the_exit_code_is_that_of_the_signal(stop: KeyboardInterrupt, code: int) -> None:
    error = WorkInterruptedError(stop)
    assert (str(error), error.exit_code) == ("kept", code)
