"""A segment: a run of frames that is made by itself, starting with a key frame, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size

OnError = Literal["stop", "repeat", "skip"]
"""What a frame that cannot be decoded leads to."""
SEGMENT_FRAMES = 48
"""Frames of a segment, about: what a killed run loses at most."""
FrameStatistics = Literal["exact", "reuse"]
"""Where the decoder's statistics come from: this frame, or the first one since the last scene cut."""


@dataclass(frozen=True)
class Encoding:
    """How frames become packets. Equal encodings and frames give equal bytes, whatever the machine."""

    codec: str
    """Name of FFmpeg's encoder, `libx264`."""
    size: Size
    """(height, width) of the output."""
    pixel_format: str
    """FFmpeg's name, `yuv420p10le`."""
    rate: tuple[int, int]
    """Nominal frames per second, as a fraction."""
    time_base: tuple[int, int]
    """Seconds per unit of time, as a fraction: the clip's own."""
    options: tuple[tuple[str, str], ...] = ()
    """The encoder's options, sorted by name."""
    aspect: tuple[int, int] = (0, 1)
    """Width to height of one pixel; (0, 1) where the clip does not say."""
    matrix: int = 2
    """Of the colours, by ITU-T H.273; 2 where the clip does not say."""
    is_full_range: bool | None = None
    """Whether levels take all values of their type; None where the clip does not say."""
    primaries: int = 2
    """By ITU-T H.273."""
    transfer: int = 2
    """By ITU-T H.273."""


@dataclass(frozen=True)
class SegmentTask:
    """All that making one segment needs, beside the model. Small, and may be pickled."""

    clip: Path
    """The input file."""
    stream: int
    """Index of its video stream."""
    number: int
    """Of the segment, from 0."""
    first: int
    """Number of its first frame, counted in the order of presentation over the whole clip."""
    times: tuple[int, ...]
    """Presentation time of each frame in units of the stream's time base."""
    key_frame: int
    """Number of the frame where decoding starts: a key frame at or before `first`."""
    key_time: int | None
    """Presentation time of that frame; None where the clip's frames can only be counted from the start."""
    source_size: Size
    """(height, width) of the clip's frames; one that has another is scaled to the same output, and counted."""
    encoding: Encoding
    """How the frames are written."""
    on_error: OnError = "stop"
    """What a damaged frame leads to."""
    statistics: FrameStatistics = "exact"
    """Where the decoder's statistics come from."""
    counted: tuple[int, ...] = ()
    """Times of all packets from `key_frame` on, in order, where frames are to be counted (`Clip.is_counted`)."""

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise OptionError(f"--on-error {self.on_error}: expected one of {', '.join(get_args(OnError))}")
        if self.statistics not in get_args(FrameStatistics):
            raise OptionError(f"--statistics {self.statistics}: expected one of {', '.join(get_args(FrameStatistics))}")
        if not self.times:
            raise OptionError(f"segment {self.number} of {self.clip}: expected at least one frame")

    @property
    def stop(self) -> int:
        """One past the last frame."""
        return self.first + len(self.times)

    @property
    def file_name(self) -> str:
        """Of the segment's file, in whatever folder it is made."""
        return f"{self.number:06d}.segment"


@dataclass(frozen=True)
class Segment:
    """A finished segment."""

    number: int
    """Which one."""
    sha256: str
    """Of its file."""
    frames: int
    """Packets in it, a frame each: as many as the task has frames, less those that were skipped."""
    damaged: tuple[int, ...] = ()
    """Numbers of the frames that could not be decoded, and were repeated or skipped."""
    fallback_blocks: int = 0
    """Frames, or blocks of queries, that were no pictures in half precision and were made again in fp32."""
    deviation_db: float | None = None
    """Worst PSNR of reused statistics against exact ones on the frames where both were computed."""
    resized: int = 0
    """Frames that had another size than the clip's first."""

    def __post_init__(self) -> None:
        counts = (self.number, self.frames, self.fallback_blocks, self.resized, *self.damaged)
        # Segments are also read from a journal that a crash or a hand may have changed.
        if not all(type(count) is int and count >= 0 for count in counts):
            raise OptionError(f"segment {self.number!r}: expected numbers and counts of 0 or more, not {counts}")
        if type(self.sha256) is not str or not isinstance(self.deviation_db, float | int | None):
            raise OptionError(f"segment {self.number}: expected a hash and a deviation in dB, or none")
