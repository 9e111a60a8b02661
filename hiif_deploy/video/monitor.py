"""Shows a video's progress on stderr: one updated line in a terminal, a line now and then elsewhere, or JSON lines."""

import json
import sys
import time
from dataclasses import dataclass

from hiif_deploy.support.durations import duration, frame_rate, pixel_rate
from hiif_deploy.support.messages import printable
from hiif_deploy.video.segments import AHEAD, Fill

INTERVALS = {"terminal": 0.5, "lines": 10.0, "json": 1.0, "none": float("inf")}
"""Style → seconds between two reports."""


@dataclass(frozen=True)
class VideoProgress:
    """Progress of a video; JSON lines contain these names."""

    done: int
    """Number of frames that are finished."""
    total: int
    """Number of frames to finish."""
    seconds: float
    """Seconds since the work began or was resumed."""
    fps: float
    """Frames per second in that time."""
    megapixels_per_second: float
    """Output megapixels per second in that time."""
    eta: float | None
    """Estimated seconds left; None before the first frame."""
    decoded: int
    """Decoded frames in the queue of the upscaler."""
    enlarged: int
    """Upscaled frames in the queue of the encoder."""


class Monitor:
    """Counts finished frames and reports progress; called from one thread."""

    def __init__(self, title: str, total: int, pixels: int, *, done: int = 0, style: str | None = None) -> None:
        self.fill = Fill()
        self.title, self.total, self.pixels = title, total, pixels
        self.style = style or ("terminal" if sys.stderr.isatty() else "lines")
        self._began = self._reported_at = time.monotonic()
        self._start = self.done = done

    def advance(self, count: int = 1) -> None:
        """Count `count` further finished frames."""
        self.done += count
        now = time.monotonic()
        if now - self._reported_at >= INTERVALS[self.style]:
            self._reported_at = now
            self._report(self.progress())

    def close(self) -> None:
        """Clear the terminal's line, or print the last JSON line."""
        if self.style == "terminal":
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif self.style == "json":
            self._report(self.progress())

    def progress(self) -> VideoProgress:
        """Return the progress as of now."""
        made, seconds = self.done - self._start, max(time.monotonic() - self._began, 1e-9)
        fps = made / seconds
        eta = (self.total - self.done) / fps if made else None
        return VideoProgress(
            self.done, self.total, round(seconds, 3), round(fps, 3), round(fps * self.pixels / 1e6, 3),
            None if eta is None else round(eta, 1), self.fill.decoded, self.fill.upscaled,
        )  # fmt: skip

    def _report(self, progress: VideoProgress) -> None:
        if self.style == "json":
            print(json.dumps({"file": self.title, **vars(progress)}), file=sys.stderr, flush=True)
            return
        rest = "?" if progress.eta is None else duration(progress.eta)
        line = (
            f"{printable(self.title)}: {progress.done}/{progress.total} frames, {frame_rate(progress.fps)}, "
            f"{pixel_rate(progress.megapixels_per_second)}, "
            f"queues {progress.decoded}/{AHEAD} {progress.enlarged}/{AHEAD}, ETA {rest}"
        )
        end = {"terminal": ""}.get(self.style, "\n")
        print(f"\r\x1b[K{line}" if not end else line, end=end, file=sys.stderr, flush=True)
