"""Video frames the OpenCV way: BGR arrays from a camera or a file, enlarged one by one, and written to a file.

Sound, subtitles, exact time stamps and colour tags are not OpenCV's business, so they are lost: this is for frames.

>>> with Upscaler("hiif-live") as upscaler, FrameWriter("large.mp4", fps=25) as writer:
...     for frame in upscaled(upscaler, read_frames("small.mp4"), scale=2.5):
...         writer.write(frame)
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import FrameError, ImageError, OptionError
from hiif_deploy.geometry.sizes import Scale, Size
from hiif_deploy.upscaler import Upscaler

Frame = NDArray[Any]
"""[H, W, 3] uint8, blue first, as OpenCV gives and takes it."""
CODES = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".mov": "mp4v"}
"""File suffix → OpenCV's code of the codec."""


def read_frames(source: str | Path | int) -> Iterator[Frame]:
    """Frames of a file, or of the camera of that index, until it ends. ImageError where it cannot be opened."""
    if not isinstance(source, int) and not Path(source).is_file():
        raise ImageError(f"{source}: no such file; expected a video that OpenCV reads, or a camera's index")
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        if not capture.isOpened():
            what = f"camera {source}" if isinstance(source, int) else str(source)
            raise ImageError(f"{what}: OpenCV cannot open it as a video")
        while True:
            is_read, frame = capture.read()
            if not is_read:
                return
            yield frame
    finally:
        capture.release()


def newest_frames(source: str | Path | int, rate: float | None = None) -> Iterator[tuple[int, Frame]]:
    """Number and frame, the newest one each time: frames that come while the caller works are dropped.

    A file is played at `rate` frames per second, by default its own; a camera sets its own pace. Errors are those of
    `read_frames` and `frame_rate`.
    """
    frames = read_frames(source)
    first = next(frames, None)
    if first is None:
        return
    interval = 0.0 if isinstance(source, int) else 1 / (rate or frame_rate(source))
    yield 0, first
    # The clip plays from here on: what the caller prepares after the first frame costs none.
    with closing(NewestFrames(frames, interval)) as newest:
        for number, frame in newest:
            yield number + 1, frame


class NewestFrames:
    """Reads frames in a thread of its own and keeps the last one, with its number."""

    def __init__(self, frames: Iterator[Frame], interval: float) -> None:
        """Frames are not kept before they are due: frame n at n times the interval in seconds."""
        self._changed = threading.Condition()
        self._newest: tuple[int, Frame] | None = None
        self._has_ended = False
        self._error: BaseException | None = None
        self._reader = threading.Thread(target=self._read, args=(frames, interval), daemon=True)
        self._reader.start()

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._has_ended)
                newest, self._newest = self._newest, None
            if newest is None:
                break
            yield newest
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread, so that the camera or file is free again."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._reader.join()

    def _read(self, frames: Iterator[Frame], interval: float) -> None:
        began = time.monotonic()
        try:
            for number, frame in enumerate(frames):
                with self._changed:
                    due = began + number * interval
                    self._changed.wait_for(lambda: self._has_ended, max(0.0, due - time.monotonic()))
                    if self._has_ended:
                        break
                    self._newest = number, frame
                    self._changed.notify_all()
        except Exception as error:  # raised where the frames are taken
            self._error = error
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()


def frame_rate(source: str | Path) -> float:
    """Frames per second as the file reports. ImageError where it does not."""
    capture = cv2.VideoCapture(str(source))
    try:
        rate = float(capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()
    if not 0 < rate < 1e6:
        raise ImageError(f"{source}: reports a frame rate of {rate}; give one yourself")
    return rate


def upscaled(
    upscaler: Upscaler, frames: Iterable[Frame], *, scale: Scale | None = None, size: Size | None = None
) -> Iterator[Frame]:
    """Each frame enlarged by `scale` or to `size` (height, width), in order. FrameError, ScaleError as `upscale`."""
    for frame in frames:
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3:
            shape = getattr(frame, "shape", type(frame).__name__)
            raise FrameError(f"frame is {shape}: expected [height, width, 3], blue first, as OpenCV gives it")
        colours = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        yield cv2.cvtColor(upscaler.upscale(colours, scale=scale, size=size), cv2.COLOR_RGB2BGR)


class FrameWriter:
    """Frames into a file. Its size is the first frame's; the file appears under its name when all is written."""

    def __init__(self, path: str | Path, fps: float, code: str | None = None) -> None:
        """`code` is the codec's four letters; None takes what suits the suffix. OptionError for what makes no sense."""
        self.path = Path(path)
        if not 0 < fps < 1e6:
            raise OptionError(f"{path}: {fps} frames per second: expected more than 0")
        if code is None and self.path.suffix.lower() not in CODES:
            raise OptionError(f"{path}: expected a name ending in {', '.join(CODES)}, or name a codec")
        self._fps = fps
        self._code = code or CODES[self.path.suffix.lower()]
        self._aside = self.path.with_name(f".{self.path.stem}.part{self.path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self._aside.exists():
            self._aside.replace(self.path)
        else:
            self._aside.unlink(missing_ok=True)

    def write(self, frame: Frame) -> None:
        """Add a frame. FrameError where its size differs from the first one's; ImageError where none can be written."""
        size = (frame.shape[1], frame.shape[0])
        if self._writer is None:
            self._size = size
            if size[0] % 2 or size[1] % 2:
                # OpenCV would cut a row or a column off without a word.
                raise FrameError(
                    f"{self.path}: frame of {size[0]}x{size[1]}, and OpenCV writes even sides only; enlarge to an "
                    f"even size, such as {size[0] + size[0] % 2}x{size[1] + size[1] % 2}"
                )
            fourcc = cv2.VideoWriter.fourcc(*self._code)
            self._writer = cv2.VideoWriter(str(self._aside), fourcc, self._fps, size)
        if not self._writer.isOpened():
            raise ImageError(f"{self.path}: OpenCV cannot write {size[0]}x{size[1]} with the codec {self._code}")
        if size != self._size:
            raise FrameError(f"{self.path}: frame of {size[0]}x{size[1]}, expected {self._size} as the first one")
        self._writer.write(frame)
