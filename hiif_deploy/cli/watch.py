"""Frames and their enlargement side by side in a window, live."""

import itertools
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import cv2
import numpy as np
import typer

from hiif_deploy.bundle.loader import LIVE_MODEL
from hiif_deploy.cli.options import EngineOption, PrecisionOption, ThreadsOption, engine_options
from hiif_deploy.errors import OptionError
from hiif_deploy.opencv import Frame, newest_frames, upscaled
from hiif_deploy.upscaler import Upscaler

logger = logging.getLogger(__name__)
TITLE = "hiif-deploy watch: q or Esc ends"
GAP = 4
"""Columns between the two pictures."""
LABEL = 24
"""Rows of the line above them."""
END_KEYS = (ord("q"), 27)
OPEN_A_WINDOW = "import cv2; cv2.namedWindow('check'); cv2.destroyAllWindows()"


def side_by_side(frame: Frame, large: Frame, label: str = "") -> Frame:
    """[LABEL + H, 2 W + GAP, 3] BGR: a line of text, the frame blown up to `large`'s [H, W, 3], and `large`."""
    height, width = large.shape[:2]
    sheet = np.zeros((LABEL + height, 2 * width + GAP, 3), np.uint8)
    sheet[LABEL:, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_NEAREST)
    sheet[LABEL:, width + GAP :] = large
    cv2.putText(sheet, label, (4, LABEL - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return sheet


def sheets(
    upscaler: Upscaler, frames: Iterable[tuple[int, Frame]], scale: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[Frame]:
    """One picture for the window per numbered frame, labelled with the frames per second and those left out so far."""
    before = clock()
    for shown, (number, frame) in enumerate(frames, 1):
        (large,) = upscaled(upscaler, [frame], scale=scale)
        now = clock()
        rate = 1 / max(now - before, 1e-6)
        before = now
        what = f"{_across(frame)} -> {_across(large)}  {upscaler.contract.name} x{scale:g}"
        yield side_by_side(frame, large, f"{what}  {rate:.1f} fps, {number + 1 - shown} of {number + 1} dropped")


def show(pictures: Iterable[Frame]) -> int:
    """Show pictures in a window until they end, a key ends it or it is closed; how many were shown."""
    count = 0
    cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    try:
        for picture in pictures:
            if count == 0:
                cv2.resizeWindow(TITLE, picture.shape[1], picture.shape[0])
            cv2.imshow(TITLE, picture)
            count += 1
            if cv2.waitKey(1) & 0xFF in END_KEYS or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
                break
    finally:
        cv2.destroyAllWindows()
    return count


def require_window() -> None:
    """OptionError where no window can be opened. Tried in a process of its own: Qt ends the one that tries in vain."""
    tried = subprocess.run([sys.executable, "-c", OPEN_A_WINDOW], capture_output=True, text=True, check=False)
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["no reason was given"])[0]
        raise OptionError(
            f"no window can be opened here ({reason[:120]}): run it on a desktop, or write a file with: "
            "hiif-deploy upscale CLIP -o large.mp4"
        )


def parse_source(source: str) -> str | int:
    """A camera's index where it is a number, else a file's name."""
    return int(source) if source.isascii() and source.isdecimal() else source


def watch(
    source: Annotated[str, typer.Argument(help="Video file, or a camera's index such as 0.")],
    scale: Annotated[float, typer.Option(help="Factor.")] = 2.0,
    bundle: Annotated[str, typer.Option("--bundle", "-b", help="Bundle folder, or name of a model.")] = LIVE_MODEL,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = 0,
) -> None:
    """Show a clip or a camera beside its enlargement, live, in a window; frames are dropped rather than late."""
    frames = _started(newest_frames(parse_source(source)))
    require_window()
    with Upscaler(bundle, engine=engine_options(engine, precision, threads)) as upscaler:
        count = show(sheets(upscaler, frames, scale))
    logger.info("%d frames were shown", count)


def _started(frames: Iterator[tuple[int, Frame]]) -> Iterator[tuple[int, Frame]]:
    """The frames with the first one read already, so that an absent source is reported at once."""
    first = next(frames, None)
    return iter(()) if first is None else itertools.chain([first], frames)


def _across(frame: Frame) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
