"""Progress of a video on stderr: a line that is renewed in a terminal, now and then one elsewhere, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

from hiif_deploy.support.durations import duration, frame_rate, pixel_rate
from hiif_deploy.support.messages import printable
from hiif_deploy.video.segments import AHEAD, Fill

INTERVALS = {"terminal": 0.5, "lines": 10.0, "json": 1.0, "none": float("inf")}
"""Seconds between reports."""


@dataclass(frozen=True)
class Pace:
    """How far the work is."""

    done: int
    """Frames."""
    total: int
    """Of so many."""
    seconds: float
    """Since the work began or was resumed."""
    fps: float
    """Frames per second of that time."""
    megapixels_per_second: float
    """Of the output."""
    eta: float | None
    """Seconds that are left; None before the first frame."""
    decoded: int
    """Frames that wait for the upscaler."""
    enlarged: int
    """Frames that wait for the encoder."""


class Monitor:
    """Told of each finished frame, from one thread."""

    def __init__(self, title: str, total: int, pixels: int, *, done: int = 0, style: str | None = None) -> None:
        self.fill = Fill()
        self.title, self.total, self.pixels = title, total, pixels
        self.style = style or ("terminal" if sys.stderr.isatty() else "lines")
        self._began = self._said = time.monotonic()
        self._start = self.done = done

    def advance(self, count: int = 1) -> None:
        """So many more frames are done."""
        self.done += count
        now = time.monotonic()
        if now - self._said >= INTERVALS[self.style]:
            self._said = now
            self._say(self.pace())

    def close(self) -> None:
        """Leave the terminal's line clean; the last JSON line."""
        if self.style == "terminal":
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif self.style == "json":
            self._say(self.pace())

    def pace(self) -> Pace:
        """As of now."""
        made, seconds = self.done - self._start, max(time.monotonic() - self._began, 1e-9)
        fps = made / seconds
        eta = (self.total - self.done) / fps if made else None
        return Pace(
            self.done, self.total, round(seconds, 3), round(fps, 3), round(fps * self.pixels / 1e6, 3),
            None if eta is None else round(eta, 1), self.fill.decoded, self.fill.enlarged,
        )  # fmt: skip

    def _say(self, pace: Pace) -> None:
        if self.style == "json":
            print(json.dumps({"file": self.title, **vars(pace)}), file=sys.stderr, flush=True)
            return
        rest = "?" if pace.eta is None else duration(pace.eta)
        line = (
            f"{printable(self.title)}: {pace.done}/{pace.total} frames, {frame_rate(pace.fps)}, "
            f"{pixel_rate(pace.megapixels_per_second)}, "
            f"queues {pace.decoded}/{AHEAD} {pace.enlarged}/{AHEAD}, ETA {rest}"
        )
        end = {"terminal": ""}.get(self.style, "\n")
        print(f"\r\x1b[K{line}" if not end else line, end=end, file=sys.stderr, flush=True)
