"""Reads a clip's properties without decoding more than its first frame."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from hiif_deploy.errors import VideoError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.video.pyav import pyav

LOST = {
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "A53_CC": "closed captions inside the picture",
    "S12M_TIMECODE": "time codes inside the picture",
}
"""Side data of a frame that cannot be passed to encoders → its name in messages."""
UNSPECIFIED = 2
"""H.273's number for an unspecified matrix, primaries or transfer."""
FULL_RANGE = 2
"""FFmpeg's number of the full range."""
GAP = Fraction(3, 2)
"""A frame that lasts this many times as long as most others is followed by a gap."""
ALIKE = Fraction(1, 10)
"""Relative difference up to which durations count as equal: containers round to milliseconds."""


@dataclass(frozen=True)
class Colours:
    """Colour interpretation of the samples, by ITU-T H.273."""

    matrix: int = UNSPECIFIED
    """Matrix between RGB and luma and chroma."""
    primaries: int = UNSPECIFIED
    """Primaries of red, green and blue."""
    transfer: int = UNSPECIFIED
    """Transfer function from light to samples."""
    is_full_range: bool | None = None
    """Whether levels take all values; None where the clip does not say."""


@dataclass(frozen=True)
class Clip:
    """Properties of a video file."""

    path: Path
    """Path of the video file."""
    stream: int
    """Index of the upscaled stream: the first one that is no cover picture."""
    size: Size
    """(height, width) as coded, before any rotation."""
    time_base: Fraction
    """Seconds per unit of `times`."""
    times: tuple[int, ...]
    """Presentation time of each frame, ascending."""
    keys: tuple[int, ...]
    """Numbers of the frames at which decoding may start, ascending; the first is 0."""
    end: int
    """Time at which the last frame ends."""
    rate: Fraction
    """Frames per second, as the file reports or on average."""
    pixel_format: str
    """FFmpeg's name of the pixel format."""
    bits: int
    """Number of bits per sample."""
    colours: Colours
    """Colour interpretation of the samples."""
    aspect: Fraction | None = None
    """Width to height of a pixel; None where the clip does not say."""
    matrix: tuple[int, ...] = ()
    """FFmpeg's display matrix of nine numbers, by which players rotate and mirror; empty where there is none."""
    mastering: tuple[int, ...] = ()
    """HDR10's mastering display: x and y of red, green, blue and white in 1/50000, least and most luminance in
    1/10000 cd/m²; empty where the clip does not say."""
    light: tuple[int, ...] = ()
    """HDR10's content light level: of the brightest pixel, and of the brightest frame on average; or empty."""
    is_counted: bool = False
    """Whether `times` are decoding times, since the container stores no others: the n-th frame that is shown has the
    n-th of them, and the times of decoded frames are ignored."""
    missing: int = 0
    """Number of frames that seem to be missing, from gaps in the times."""
    notes: tuple[str, ...] = ()
    """Irregularities of the file, one sentence each."""

    @property
    def count(self) -> int:
        """Number of frames of the clip."""
        return len(self.times)


def open_clip(path: Path) -> Any:
    """Open an input container. VideoError where the file is none."""
    av = pyav()
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    try:
        # Some containers store decoding times only; the demuxer then finds when frames are shown.
        return av.open(str(path), container_options={"fflags": "+genpts"}, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path}: cannot be read as a video ({error}); expected a file that FFmpeg opens") from error


def main_stream(container: Any, path: Path) -> Any:
    """Return the first video stream that is no cover picture. VideoError where there is none."""
    cover = pyav().stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    raise VideoError(f"{path}: holds no video stream")


def probe(path: Path) -> Clip:
    """Read all packets of the video stream and decode its first frame.

    VideoError for a file without frames, with interlaced ones, or with invalid times.
    """
    with open_clip(path) as container:
        stream = main_stream(container, path)
        shown, is_in_order, notes = _read_times(container, stream, path)
        times = tuple(time for time, _ in shown)
        # Decoding starts at the first frame, whatever its packet says.
        keys = (0, *(number for number, (_, is_key) in enumerate(shown) if is_key and number))
        end = shown[-1][0] + max(1, _duration(shown, stream))
        base = stream.time_base
        rate = stream.average_rate or Fraction(len(times)) / ((end - times[0]) * base)
        notes += _truncation(path, _reported_duration(stream), end * base, rate)
        index, aspect = stream.index, stream.sample_aspect_ratio
        is_counted = container.format.name == "avi" and is_in_order
        missing, gap_notes = _gaps(path, times, base)
        notes += gap_notes
    first = _first_frame(path)
    if first.interlaced_frame:
        raise VideoError(
            f"{path}: is interlaced, each frame holds two moments, and enlarging would mix them; deinterlace it first: "
            f"ffmpeg -i {path.name} -vf bwdif -c:v ffv1 -c:a copy -c:s copy -map 0 progressive.mkv"
        )
    levels = first.color_range
    is_full = levels == FULL_RANGE if levels else True if first.format.name.startswith("yuvj") else None
    side = {data.type.name: bytes(data) for data in first.side_data}
    notes += tuple(f"lost: {what}" for name, what in LOST.items() if name in side)
    matrix = struct.unpack("=9i", side["DISPLAYMATRIX"]) if "DISPLAYMATRIX" in side else ()
    mastering, light = _hdr(side)
    return Clip(
        path, index, (first.height, first.width), base, times, keys, end, rate,
        first.format.name, first.format.components[0].bits,
        Colours(first.colorspace, first.color_primaries, first.color_trc, is_full),
        aspect or None, matrix, mastering, light, is_counted, missing, notes,
    )  # fmt: skip


def _read_times(container: Any, stream: Any, path: Path) -> tuple[list[tuple[int, bool]], bool, tuple[str, ...]]:
    """Return (time, is key) of each frame sorted by time, whether that is decoding order, and notes."""
    found: list[tuple[int, bool]] = []
    notes: tuple[str, ...] = ()
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                time = packet.pts if packet.pts is not None else packet.dts
                if time is None:
                    raise VideoError(_no_times(path, "a frame has no time", "-fflags +genpts", "-c copy"))
                found.append((time, packet.is_keyframe))
    except pyav().FFmpegError as error:
        notes = (f"{path}: reading stopped early ({error}); the file may be truncated",)
    if not found:
        raise VideoError(f"{path}: its video stream holds no frames")
    shown = sorted(found)
    if any(one[0] == other[0] for one, other in pairwise(shown)):
        raise VideoError(_no_times(path, "two frames have the same time", "", "-c copy -c:v ffv1 -fps_mode vfr"))
    return shown, shown == found, notes


def _reported_duration(stream: Any) -> Fraction:
    """Return the seconds that the file's header reports for the stream; 0 where it reports none."""
    if stream.duration is not None:
        return Fraction(stream.duration * stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return 3600 * Fraction(hours) + 60 * Fraction(minutes) + Fraction(seconds)
    except ValueError:
        return Fraction(0)


def _truncation(path: Path, reported: Fraction, found: Fraction, rate: Fraction) -> tuple[str, ...]:
    # Writers differ in the duration of the last frames, and store it rounded.
    if reported - found <= max(5 / rate, reported / 50):
        return ()
    return (
        f"{path}: ends at {float(found):.4g} s of {float(reported):.4g} s, it may be truncated; what is there is made",
    )


def _gaps(path: Path, times: tuple[int, ...], base: Fraction) -> tuple[int, tuple[str, ...]]:
    """Return how many frames the gaps in the times would hold; 0 where durations vary, as at a variable rate."""
    lasting = [after - before for before, after in pairwise(times)]
    usual = sorted(lasting)[len(lasting) // 2] if lasting else 0
    gaps = [(time, length) for time, length in zip(times, lasting, strict=False) if length > GAP * usual]
    alike = sum(abs(length - usual) <= max(ALIKE * usual, Fraction(1, 1000) / base) for length in lasting)
    if not gaps or 2 * alike < len(lasting):
        return 0, ()
    missing = sum(round(Fraction(length, usual)) - 1 for _, length in gaps)
    where = ", ".join(f"{float(time * base):.4g} s" for time, _ in gaps[:5]) + (", …" if len(gaps) > 5 else "")
    return missing, (
        f"{path}: about {missing} frames are missing in {len(gaps)} gaps between others (after {where}); the file may "
        "be damaged, or its rate varies",
    )


def _no_times(path: Path, what: str, before: str, after: str) -> str:
    command = " ".join(["ffmpeg", before, "-i", path.name, "-map 0", after, "new.mkv"]).replace("  ", " ")
    return f"{path}: {what}; write its times anew: {command}"


def _duration(shown: list[tuple[int, bool]], stream: Any) -> int:
    """Return the duration of the last frame: that of the one before it, or by the rate."""
    if len(shown) > 1:
        return shown[-1][0] - shown[-2][0]
    units: int = round(1 / (stream.average_rate or 25) / stream.time_base)
    return units


def _first_frame(path: Path) -> Any:
    with open_clip(path) as container:
        for frame in decoded(container, main_stream(container, path)):
            return frame
    raise VideoError(f"{path}: none of its frames can be decoded")


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Yield frames from the container's position on; packets that cannot be decoded are skipped."""
    av = pyav()
    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue
    except av.FFmpegError:
        return


def _hdr(side: dict[str, bytes]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return `Clip.mastering` and `Clip.light` from side data laid out as in FFmpeg's mastering_display_metadata.h."""
    mastering: tuple[int, ...] = ()
    light: tuple[int, ...] = ()
    if data := side.get("MASTERING_DISPLAY_METADATA"):
        values = struct.unpack_from("=22i", data)
        ratios = [Fraction(values[2 * n], values[2 * n + 1] or 1) for n in range(10)]
        mastering = (*(round(ratio * 50_000) for ratio in ratios[:8]), *(round(r * 10_000) for r in ratios[8:]))
    if data := side.get("CONTENT_LIGHT_LEVEL"):
        light = struct.unpack_from("=2I", data)
    return mastering, light
