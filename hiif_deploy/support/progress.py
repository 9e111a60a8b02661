"""Shows the progress of long work on stderr: a bar with an ETA in a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from hiif_deploy.support.durations import duration
from hiif_deploy.support.messages import printable

PLAIN_INTERVAL = 10.0
"""Seconds between lines where stderr is not a terminal."""


class _Duration(ProgressColumn):
    """A column with one of Rich's times, in our format."""

    max_refresh = 0.5

    def __init__(self, name: str) -> None:
        self._name = name
        super().__init__()

    def render(self, task: Task) -> Text:
        """Return the time, or `?` where it is unknown."""
        seconds = getattr(task, self._name)
        return Text("?" if seconds is None else duration(seconds))


class Progress:
    """Context manager that shows progress; `advance` may be called from one thread at a time."""

    def __init__(self, title: str, total: int, *, unit: str = "blocks", enabled: bool = True, start: int = 0) -> None:
        self.title = printable(title)
        self.total = max(total, 1)
        self.unit = unit
        self.enabled = enabled
        self.done = start
        self._said_done = start
        self._began = self._said = time.monotonic()
        self._bar: RichProgress | None = None
        self._note = ""

    def __enter__(self) -> Self:
        self._began = self._said = time.monotonic()
        if self.enabled and sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                _Duration("elapsed"),
                TextColumn("ETA"),
                _Duration("time_remaining"),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(escape(self.title), total=self.total, completed=self.done, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count further units as done; `note` is shown behind them from now on."""
        self.done += count
        self._note = note or self._note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._note)
        elif self.enabled and time.monotonic() - self._said >= PLAIN_INTERVAL:
            print(self._line(time.monotonic()), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        # Use the pace since the last line: the encoder's few long steps do not predict the decoder's many short ones.
        pace = (now - self._said) / max(1, self.done - self._said_done)
        self._said, self._said_done = now, self.done
        rest = pace * (self.total - self.done)
        note = f", {self._note}" if self._note else ""
        times = f"{duration(now - self._began)}, ETA {duration(rest)}"
        return f"{self.title}: {self.done}/{self.total} {self.unit}, {times}{note}"
