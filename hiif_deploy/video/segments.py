"""Computes segments from tasks with an open upscaler, on one machine or many."""

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
from hiif_deploy.video.frame_upscaler import FrameUpscaler
from hiif_deploy.video.frames import task_frames
from hiif_deploy.video.pipeline import BoundedQueue, Pipeline
from hiif_deploy.video.task import Segment, SegmentTask

AHEAD = 4
"""Largest number of frames in each of the queues before and after the upscaler."""


@dataclass
class Fill:
    """Number of frames in each queue, for progress."""

    decoded: int = 0
    """Frames before the upscaler: none means that decoding is the bottleneck."""
    upscaled: int = 0
    """Frames after the upscaler: `AHEAD` means that encoding is the bottleneck."""


def make_segment(
    task: SegmentTask, upscaler: Upscaler, folder: Path, advance: Callable[[int], None] = lambda _: None
) -> Segment:
    """Decode, upscale and encode the frames of one task into `folder / task.file_name`, written atomically.

    The file depends on the task and the model alone, not on the machine or on earlier segments. `advance(1)` is called
    for each finished frame. Raises VideoError, OSError where the disk is full.
    """
    with closing(make_segments([task], upscaler, folder, advance)) as made:
        return next(made)


def make_segments(
    tasks: Iterable[SegmentTask], upscaler: Upscaler, folder: Path, advance: Callable[[int], None] = lambda _: None,
    fill: Fill | None = None, step: Callable[[int], None] | None = None,
) -> Generator[Segment, None, None]:  # fmt: skip
    """Compute many segments in order, decoding, upscaling and encoding in parallel; yield each when it is finished.

    Arguments and errors as `make_segment`; `step` as `FrameUpscaler`. Close the iterator if it is not exhausted, so
    that its threads end.
    """
    fill = fill or Fill()
    with Pipeline() as pipeline, closing(FrameUpscaler(upscaler, step)) as frames:
        decoded, upscaled, finished = (
            BoundedQueue(pipeline, AHEAD),
            BoundedQueue(pipeline, AHEAD),
            BoundedQueue(pipeline, 0),
        )
        pipeline.start("decode", lambda: _decode(tasks, decoded))
        pipeline.start("encode", lambda: _encode(upscaled, finished, folder, advance))
        while (item := decoded.get()) is not None:
            fill.decoded, fill.upscaled = decoded.fill, upscaled.fill
            upscaled.put(_upscale(frames, item))
            yield from finished.get_ready()
        upscaled.put(None)
        while (segment := finished.get()) is not None:
            yield segment


def _decode(tasks: Iterable[SegmentTask], decoded: BoundedQueue) -> None:
    """Put each task, then its frames, then None after all."""
    for task in tasks:
        decoded.put(task)
        for source in task_frames(task):
            decoded.put((source, source.number == task.stop - 1))
    decoded.put(None)


def _upscale(frames: FrameUpscaler, item: Any) -> Any:
    """Pass a task on; turn a frame into (time, picture, the segment's figures after its last frame)."""
    if isinstance(item, SegmentTask):
        frames.begin(item)
        return item
    source, is_last = item
    picture = frames.upscale(source)
    if not is_last:
        return source.time, picture, None
    found = Segment(
        frames.task.number, "", 0, tuple(frames.damaged), frames.fallback_blocks, frames.deviation_db, frames.resized
    )
    return source.time, picture, found


def _encode(upscaled: BoundedQueue, finished: BoundedQueue, folder: Path, advance: Callable[[int], None]) -> None:
    converter = Converter()
    while (item := upscaled.get()) is not None:
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
