"""Decodes the frames of one segment, and handles damaged frames as the task says."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hiif_deploy.errors import VideoError
from hiif_deploy.video.convert import Converter, RgbFrame
from hiif_deploy.video.probe import decoded, open_clip
from hiif_deploy.video.task import SegmentTask

DECODER_THREADS = 4
"""Fixed number of decoder threads, because the decoder's concealment of damage may depend on it."""


@dataclass(frozen=True)
class Source:
    """One decoded frame to be upscaled."""

    number: int
    """Number of the frame in the whole clip."""
    time: int
    """Presentation time of the frame."""
    picture: RgbFrame | None
    """RGB frame; None where it is damaged and left out."""
    is_damaged: bool = False
    """Whether it could not be decoded; then `picture` is a neighbour's, the same array."""


def task_frames(task: SegmentTask) -> Iterator[Source]:
    """Yield every frame of the task in order, exactly once. VideoError where one is damaged and the task says
    `stop`."""
    converter = Converter()
    missing: list[int] = []
    last: RgbFrame | None = None
    before: Any = None
    number = task.first
    for frame in _intact_frames(task):
        time = frame.pts
        if time < task.times[0]:
            before = frame
            continue
        while number < task.stop and task.times[number - task.first] < time:
            missing.append(number)
            number += 1
        if number == task.stop:
            break
        if task.times[number - task.first] != time:
            continue
        picture = converter.to_rgb(frame)
        if last is None and before is not None and missing:
            last = converter.to_rgb(before)
        yield from _damaged(task, missing, picture if last is None else last)
        missing, last = [], picture
        yield Source(number, time, picture)
        number += 1
        if number == task.stop:
            return
    missing += range(number, task.stop)
    if missing:
        yield from _damaged(task, missing, last if last is not None or before is None else converter.to_rgb(before))


def _damaged(task: SegmentTask, numbers: list[int], neighbour: RgbFrame | None) -> Iterator[Source]:
    """Yield substitutes for undecodable frames: the last intact one before them, else the first one after."""
    for number in numbers:
        time = task.times[number - task.first]
        if task.on_error == "stop":
            raise VideoError(
                f"{task.clip}: frame {number} cannot be decoded; --on-error repeat shows its neighbour instead, "
                "--on-error skip leaves it out"
            )
        if task.on_error == "repeat" and neighbour is None:
            raise VideoError(
                f"{task.clip}: frames {task.first} to {task.stop - 1} cannot be decoded, so there is none to repeat; "
                "--on-error skip leaves them out"
            )
        yield Source(number, time, neighbour if task.on_error == "repeat" else None, is_damaged=True)


def _intact_frames(task: SegmentTask) -> Iterator[Any]:
    """Yield undamaged frames from the task's key frame, or an earlier one."""
    frames = _from_key(task)
    for frame in _counted(frames, task) if task.counted else frames:
        if frame.pts is None or frame.is_corrupt:
            continue
        if frame.interlaced_frame:
            raise VideoError(
                f"{task.clip}: frame {frame.pts * frame.time_base} s is interlaced; deinterlace the clip first: "
                f"ffmpeg -i {task.clip.name} -vf bwdif -c:v ffv1 -c:a copy -c:s copy -map 0 progressive.mkv"
            )
        yield frame


def _counted(frames: Iterator[Any], task: SegmentTask) -> Iterator[Any]:
    """Yield frames with the times of their places, as a frame comes with its packet's time in decoding order.

    A key frame's place is certain: before it are shown all packets that precede it, and of the others those whose
    frames were already output. From there on frames are counted; a missing one is detected at the next key frame.
    """
    place: int | None = None
    before: deque[int] = deque(maxlen=len(task.counted))
    for frame in frames:
        own = frame.pts
        if frame.key_frame and own in task.counted and (before or task.key_frame == 0):
            place = task.counted.index(own) + sum(other > own for other in before)
        if own is not None:
            before.append(own)
        if place is None or place >= len(task.counted):
            continue
        frame.pts = task.counted[place]
        place += 1
        yield frame


def _from_key(task: SegmentTask) -> Iterator[Any]:
    with open_clip(task.clip) as container:
        stream = _stream(container, task)
        if task.key_frame == 0 or task.key_time is None:
            yield from decoded(container, stream)
            return
        container.seek(task.key_time, stream=stream)
        frames = decoded(container, stream)
        first = next(frames, None)
        # Some containers have no index, or one that misleads.
        if first is not None and first.pts is not None and first.pts <= task.key_time:
            yield first
            yield from frames
            return
    with open_clip(task.clip) as container:
        yield from decoded(container, _stream(container, task))


def _stream(container: Any, task: SegmentTask) -> Any:
    stream = container.streams[task.stream]
    stream.thread_type, stream.thread_count = "AUTO", DECODER_THREADS
    return stream
