"""A segment: a run of frames that starts with a key frame and is computed independently, and its result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size

OnError = Literal["stop", "repeat", "skip"]
"""Reaction to a frame that cannot be decoded."""
SEGMENT_FRAMES = 48
"""Approximate number of frames of a segment, which a killed run loses at most."""
FrameStatistics = Literal["exact", "reuse"]
"""Source of the decoder's statistics: this frame, or the first one since the last scene cut."""


@dataclass(frozen=True)
class Encoding:
    """Settings of the encoder. Equal encodings and frames give equal bytes on every machine."""

    codec: str
    """Name of FFmpeg's encoder, such as `libx264`."""
    size: Size
    """(height, width) of the output."""
    pixel_format: str
    """FFmpeg's name of the pixel format, such as `yuv420p10le`."""
    rate: tuple[int, int]
    """Nominal frames per second, as a fraction."""
    time_base: tuple[int, int]
    """Seconds per unit of time, as a fraction: the clip's own."""
    options: tuple[tuple[str, str], ...] = ()
    """The encoder's options, sorted by name."""
    aspect: tuple[int, int] = (0, 1)
    """Width to height of one pixel; (0, 1) where the clip does not say."""
    matrix: int = 2
    """Colour matrix by ITU-T H.273; 2 where the clip does not say."""
    is_full_range: bool | None = None
    """Whether levels take all values of their type; None where the clip does not say."""
    primaries: int = 2
    """Colour primaries by ITU-T H.273; 2 where the clip does not say."""
    transfer: int = 2
    """Transfer function by ITU-T H.273; 2 where the clip does not say."""


@dataclass(frozen=True)
class SegmentTask:
    """Everything that one segment needs beside the model. Small, and can be pickled."""

    clip: Path
    """Path of the input file."""
    stream: int
    """Index of its video stream."""
    number: int
    """Number of the segment, from 0."""
    first: int
    """Number of its first frame, counted in the order of presentation over the whole clip."""
    times: tuple[int, ...]
    """Presentation time of each frame in units of the stream's time base."""
    key_frame: int
    """Number of the frame at which decoding starts: a key frame at or before `first`."""
    key_time: int | None
    """Presentation time of that frame; None where the clip's frames can only be counted from the start."""
    source_size: Size
    """(height, width) of the clip's frames; a frame of another size is scaled to the same output and counted."""
    encoding: Encoding
    """Settings of the segment's encoder."""
    on_error: OnError = "stop"
    """Reaction to a frame that cannot be decoded."""
    statistics: FrameStatistics = "exact"
    """Source of the decoder's statistics."""
    counted: tuple[int, ...] = ()
    """Times of all packets from `key_frame` on, in order, where frames must be counted (`Clip.is_counted`)."""

    def __post_init__(self) -> None:
        if self.on_error not in get_args(OnError):
            raise OptionError(f"--on-error {self.on_error}: expected one of {', '.join(get_args(OnError))}")
        if self.statistics not in get_args(FrameStatistics):
            raise OptionError(f"--statistics {self.statistics}: expected one of {', '.join(get_args(FrameStatistics))}")
        if not self.times:
            raise OptionError(f"segment {self.number} of {self.clip}: expected at least one frame")

    @property
    def stop(self) -> int:
        """Number one past the last frame."""
        return self.first + len(self.times)

    @property
    def file_name(self) -> str:
        """Name of the segment's file in whatever folder it is written to."""
        return f"{self.number:06d}.segment"


@dataclass(frozen=True)
class Segment:
    """Figures of a finished segment."""

    number: int
    """Number of the segment, from 0."""
    sha256: str
    """SHA-256 of the segment's file."""
    frames: int
    """Number of packets, one per frame: the task's frames without the skipped ones."""
    damaged: tuple[int, ...] = ()
    """Numbers of the frames that could not be decoded, and were repeated or skipped."""
    fallback_blocks: int = 0
    """Frames, or blocks of queries, that overflowed in half precision and were recomputed in fp32."""
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
