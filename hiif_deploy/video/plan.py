"""Plans the segments of a clip for the given options."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.target import Target
from hiif_deploy.video.mux import NONE_LOST, Lost, TimeRange, check_clip
from hiif_deploy.video.options import VideoOptions, choose_encoding
from hiif_deploy.video.probe import Clip, probe
from hiif_deploy.video.task import Encoding, SegmentTask

KEYS_TO_COUNT = 2
"""Key frames before a segment's own at which counting starts: frames shown before the first one cannot be decoded, so
only the second one's place is certain, and frames shown before the third one follow it."""
REORDERED = 32
"""Packets beyond a segment whose frames may be shown within it: codecs reorder at most 16."""


@dataclass(frozen=True)
class VideoPlan:
    """Everything that will be done to one clip."""

    clip: Clip
    """The clip that is read."""
    encoding: Encoding
    """Encoding of the output stream."""
    tasks: tuple[SegmentTask, ...]
    """Segments to compute, in order."""
    time_range: TimeRange
    """Part of the clip that the segments cover."""
    notes: tuple[str, ...] = ()
    """Everything that differs from the request or is lost, one sentence each."""
    lost: Lost = NONE_LOST
    """Streams that the container does not accept."""

    @property
    def frames(self) -> int:
        """Number of frames of all segments."""
        return sum(len(task.times) for task in self.tasks)


def plan_video(source: Path, output: Path, target: Target, options: VideoOptions) -> VideoPlan:
    """Read the clip's times and plan its segments. Raises VideoError, OptionError, ScaleError; writes nothing."""
    clip = probe(source)
    size: Size = target.size(clip.size)
    encoding, notes = choose_encoding(clip, size, output.suffix.lower(), options)
    first, stop = chosen_frames(clip, options)
    is_whole = (first, stop) == (0, clip.count)
    time_range = TimeRange(clip.times[first], clip.end if stop == clip.count else clip.times[stop], is_whole)
    moved = 0 if is_whole else time_range.start
    lost, losses = check_clip(clip, encoding, [time - moved for time in clip.times[first:stop]], output.suffix.lower())
    tasks = tuple(
        segment_task(clip, encoding, options, number, *bounds)
        for number, bounds in enumerate(segment_bounds(clip.keys, first, stop, options.segment_frames))
    )
    return VideoPlan(clip, encoding, tasks, time_range, (*clip.notes, *notes, *losses), lost)


def chosen_frames(clip: Clip, options: VideoOptions) -> tuple[int, int]:
    """Return the first and one past the last requested frame. OptionError where there are none."""
    first, stop = options.frames or (0, None)
    stop = clip.count if stop is None else stop
    start, end = options.seconds
    if start is not None:
        first = bisect_left(clip.times, clip.times[0] + start / clip.time_base)
    if end is not None:
        stop = bisect_left(clip.times, clip.times[0] + end / clip.time_base)
    if not 0 <= first < stop <= clip.count:
        raise OptionError(
            f"{clip.path}: frames {first}:{stop} are not in it; it has frames 0:{clip.count}, which last "
            f"{float((clip.end - clip.times[0]) * clip.time_base):g} s"
        )
    return first, stop


def segment_bounds(keys: tuple[int, ...], first: int, stop: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield (first, one past the last) of each segment: at a key frame of the clip where one is near, so that no part
    of the clip is decoded twice, else after `length` frames."""
    while first < stop:
        end = min(first + length, stop)
        key = keys[bisect_right(keys, end) - 1]
        if end < stop and key > first + length // 2:
            end = key
        yield first, end
        first = end


def segment_task(
    clip: Clip, encoding: Encoding, options: VideoOptions, number: int, first: int, stop: int
) -> SegmentTask:
    """Return the segment of the frames from `first` to before `stop`."""
    back = KEYS_TO_COUNT if clip.is_counted else 0
    key = clip.keys[max(0, bisect_right(clip.keys, first) - 1 - back)]
    counted = clip.times[key : stop + REORDERED] if clip.is_counted else ()
    return SegmentTask(
        clip.path, clip.stream, number, first, clip.times[first:stop], key, clip.times[key], clip.size,
        encoding, options.on_error, options.statistics, counted,
    )  # fmt: skip


def parse_frames(text: str | None) -> tuple[int, int | None] | None:
    """Parse `100:200`, `100:` or `:200` into (first, stop); None for None."""
    if text is None:
        return None
    first, colon, stop = text.partition(":")
    try:
        if colon:
            return int(first or 0), int(stop) if stop else None
    except ValueError:
        pass
    raise OptionError(f"--frames {text}: expected FIRST:STOP, for example 100:200, the first one counted as 0")


def parse_time(option: str, text: str | None) -> Fraction | None:
    """Parse `90.5`, `1:30.5` or `0:01:30.5` into seconds; None for None."""
    if text is None:
        return None
    try:
        seconds = Fraction(0)
        for part in text.split(":"):
            seconds = 60 * seconds + Fraction(part)
        return seconds
    except ValueError as error:
        raise OptionError(f"{option} {text}: expected seconds such as 90.5, or minutes such as 1:30.5") from error
