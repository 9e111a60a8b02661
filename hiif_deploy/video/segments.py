"""Segments are made here, by one machine or by many: a task and an open upscaler give a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video.task import Segment, SegmentTask


def make_segment(
    task: SegmentTask, upscaler: Upscaler, folder: Path, advance: Callable[[int], None] = lambda _: None
) -> Segment:
    """Decode, enlarge and encode the frames of one task into `folder / task.file_name`, which appears whole.

    The file depends on the task and the model alone: not on the machine, nor on what was made before.
    `advance(1)` is called for each finished frame. Raises VideoError, OSError where the disk is full.
    """
    return next(make_segments([task], upscaler, folder, advance))


def make_segments(
    tasks: Iterable[SegmentTask], upscaler: Upscaler, folder: Path, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Segment]:
    """The same for many tasks, in order, with decoding, enlarging and encoding side by side; yields as they finish."""
    raise NotImplementedError
