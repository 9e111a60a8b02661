"""Segments are made here, by one machine or by many: a task and an open upscaler give a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hiif_deploy.support.files import atomic_write
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video.convert import Converter
from hiif_deploy.video.encoder import Encoder, write_packets
from hiif_deploy.video.enlarge import Enlarger
from hiif_deploy.video.frames import task_frames
from hiif_deploy.video.line import Channel, Line
from hiif_deploy.video.task import Segment, SegmentTask

AHEAD = 4
"""Frames that wait in front of the upscaler, and behind it, at most."""


@dataclass
class Fill:
    """How many frames wait where, for progress."""

    decoded: int = 0
    """In front of the upscaler: none means that decoding is what is waited for."""
    enlarged: int = 0
    """Behind it: `AHEAD` means that encoding is."""


def make_segment(
    task: SegmentTask, upscaler: Upscaler, folder: Path, advance: Callable[[int], None] = lambda _: None
) -> Segment:
    """Decode, enlarge and encode the frames of one task into `folder / task.file_name`, which appears whole.

    The file depends on the task and the model alone: not on the machine, nor on what was made before.
    `advance(1)` is called for each finished frame. Raises VideoError, OSError where the disk is full.
    """
    with closing(make_segments([task], upscaler, folder, advance)) as made:
        return next(made)


def make_segments(
    tasks: Iterable[SegmentTask], upscaler: Upscaler, folder: Path, advance: Callable[[int], None] = lambda _: None,
    fill: Fill | None = None,
) -> Generator[Segment, None, None]:  # fmt: skip
    """The same for many tasks, in order, with decoding, enlarging and encoding side by side; yields as they finish.

    Close the iterator if it is not used up, so that its threads end.
    """
    fill = fill or Fill()
    with Line() as line, closing(Enlarger(upscaler)) as enlarger:
        decoded, enlarged, finished = Channel(line, AHEAD), Channel(line, AHEAD), Channel(line, 0)
        line.start("decode", lambda: _decode(tasks, decoded))
        line.start("encode", lambda: _encode(enlarged, finished, folder, advance))
        while (item := decoded.get()) is not None:
            fill.decoded, fill.enlarged = decoded.fill, enlarged.fill
            enlarged.put(_enlarge(enlarger, item))
            yield from finished.get_ready()
        enlarged.put(None)
        while (segment := finished.get()) is not None:
            yield segment


def _decode(tasks: Iterable[SegmentTask], decoded: Channel) -> None:
    """Puts each task, then its frames, then None after all."""
    for task in tasks:
        decoded.put(task)
        for source in task_frames(task):
            decoded.put((source, source.number == task.stop - 1))
    decoded.put(None)


def _enlarge(enlarger: Enlarger, item: Any) -> Any:
    """A task stays one; a frame becomes (time, picture, what came of the segment if it was the last)."""
    if isinstance(item, SegmentTask):
        enlarger.begin(item)
        return item
    source, is_last = item
    picture = enlarger.enlarge(source)
    if not is_last:
        return source.time, picture, None
    found = Segment(
        enlarger.task.number, "", 0, tuple(enlarger.damaged), enlarger.fallback_blocks, enlarger.deviation_db,
        enlarger.resized,
    )  # fmt: skip
    return source.time, picture, found


def _encode(enlarged: Channel, finished: Channel, folder: Path, advance: Callable[[int], None]) -> None:
    converter = Converter()
    while (item := enlarged.get()) is not None:
        if isinstance(item, SegmentTask):
            task, encoder = item, Encoder(item.encoding)
            continue
        time, picture, result = item
        if picture is not None:
            encoder.add(converter.from_rgb(picture, task.encoding), time)
        if result is not None:
            finished.put(_write(folder / task.file_name, encoder, result))
        advance(1)
    finished.put(None)


def _write(path: Path, encoder: Encoder, result: Segment) -> Segment:
    headers = encoder.finish()
    with atomic_write(path) as file:
        write_packets(file, headers, encoder.packets)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(result, sha256=digest, frames=len(encoder.packets))
