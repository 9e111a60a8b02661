"""Progress on stderr: silent when short or disabled, a line now and then where there is no terminal."""

from __future__ import annotations

import pytest

from hiif_deploy.support import progress
from hiif_deploy.support.progress import Progress


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_short_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 3) as bar:
        clock.now = 2
        bar.advance(3)
    assert capsys.readouterr() == ("", "")


def test_long_work_reports_its_state_and_the_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 100, unit="tiles") as bar:
        clock.now = 20
        bar.advance(10)
    assert capsys.readouterr().err == "work: 10/100 tiles, 20 s, ETA 3 min\n"


def test_the_time_left_follows_the_latest_pace(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 100) as bar:
        clock.now = 50
        bar.advance(1)
        clock.now = 60
        bar.advance(9)
    assert capsys.readouterr().err.splitlines()[-1] == "work: 10/100 blocks, 1 min, ETA 1 min 40 s"


def test_resumed_work_counts_from_where_it_starts(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 100, start=50) as bar:
        clock.now = 10
        bar.advance(10)
    assert "60/100 blocks, 10 s, ETA 40 s" in capsys.readouterr().err


def test_disabled_progress_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", 100, enabled=False) as bar:
        clock.now = 100
        bar.advance(50)
    assert capsys.readouterr().err == ""
