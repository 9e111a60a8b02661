"""Writes segments and all other streams of the clip into one file. Nothing is encoded here."""

import heapq
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

from hiif_deploy.errors import VideoError
from hiif_deploy.video.copied import find_timecode, first_packets, fits_track, later_timecode, refusal
from hiif_deploy.video.encoder import Encoder, configure, read_packets, read_table
from hiif_deploy.video.probe import Clip, open_clip
from hiif_deploy.video.pyav import pyav
from hiif_deploy.video.task import Encoding

MADE_BY_WRITERS = {"encoder", "duration", "major_brand", "minor_version", "compatible_brands"}
"""Metadata, in lower case, that the container's writer creates itself."""
FORMATS = {".mkv": "matroska", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm"}
"""Suffix that can be written → FFmpeg's format."""
QUICKTIME_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "creation_time",
}  # fmt: skip
"""Metadata that MP4 and QuickTime have dedicated fields for; any other is stored by its name."""
TIMECODE_TRACKS = ("mp4", "mov")
"""Formats whose writers create a time code track from the metadata of the video stream."""
LATER = (".mkv", ".webm")
"""Containers whose times begin at zero at the earliest."""
HALF = Fraction(1, 2)
KEPT_TYPES = ("video", "audio", "subtitle", "attachment")
"""Stream types that must be kept; other types are data: where the container refuses them they are left out and
reported."""
FIRST_PACKETS = 256
"""Number of packets among which the earliest of every stream is found."""

Lost = frozenset[int]
"""Indices of streams that the container does not accept."""
NONE_LOST: Lost = frozenset()


@dataclass(frozen=True)
class TimeRange:
    """Part of the clip that is upscaled, in units of its time base."""

    start: int
    """Presentation time of the first frame."""
    end: int
    """Time at which the last frame ends."""
    is_whole: bool = True
    """Whether it is the whole clip; then no time is shifted."""


def write_clip(
    clip: Clip, encoding: Encoding, segments: Sequence[Path], time_range: TimeRange, lost: Lost, target: Path,
    suffix: str,
) -> None:  # fmt: skip
    """Write the file in the container of `suffix`, without the streams that `check_clip` reported as lost.

    Raises VideoError where the container refuses a stream, OSError where the disk is full.
    """
    av = pyav()
    tables = [read_table(path) for path in segments]
    times = [time for _, part in tables for time in part]
    try:
        with open_clip(clip.path) as source, _open_target(str(target), suffix, source.metadata) as made:
            streams = _add_streams(source, made, clip, encoding, lost)
            _add_metadata(source, made, clip, time_range)
            _add_timecode(source, streams[clip.stream], clip, time_range)
            made.start_encoding()
            video = streams[clip.stream]
            own = bytes(video.codec_context.extradata or b"")
            if any(headers != own for headers, part in tables if part):
                raise VideoError(
                    "segments were encoded by another version of the codec than is installed now; --restart makes them "
                    "again"
                )
            packets = _video_packets(segments, times, clip, time_range, video)
            for packet in heapq.merge(packets, _copied(source, streams, clip, time_range), key=_second):
                made.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise VideoError(
            f"{clip.path}: its streams do not go into {suffix} ({error}); choose {_other(suffix)}"
        ) from error


def check_clip(clip: Clip, encoding: Encoding, times: Sequence[int], suffix: str) -> tuple[Lost, tuple[str, ...]]:
    """Write the header of such a file to memory, to find before the work what the container refuses.

    `times` are those that its frames will have. Returns the lost streams, and a sentence for everything that is lost or
    shifted. VideoError where the file cannot be written.
    """
    # The encoder's refusals come first: they are not about the container.
    Encoder(encoding)
    try:
        with open_clip(clip.path) as source, _open_target(io.BytesIO(), suffix, source.metadata) as made:
            lost = _lost_streams(clip, suffix)
            streams = _add_streams(source, made, clip, encoding, lost)
            time_range = TimeRange(clip.times[0], clip.end)
            _add_metadata(source, made, clip, time_range)
            _add_timecode(source, streams[clip.stream], clip, time_range)
            made.start_encoding()
            notes = list(_losses(source, clip, lost, suffix))
            early = -_earliest(source)
    except (pyav().FFmpegError, ValueError) as error:
        raise VideoError(
            f"{clip.path}: does not go into {suffix} ({error}); choose {_other(suffix)}, or another --codec"
        ) from error
    if early > 0 and suffix in LATER:
        notes.append(f"all streams are shown {float(early):.4g} s later, together: {suffix} holds no times before zero")
    if suffix in LATER:
        notes += _rounding(clip, times, suffix)
    return lost, tuple(notes)


def _other(suffix: str) -> str:
    return ".mov" if suffix == ".mkv" else ".mkv"


def _lost_streams(clip: Clip, suffix: str) -> Lost:
    """Return the data streams that the container refuses. VideoError where it refuses sound or subtitles.

    QuickTime's time code track is left out as well: writers recreate it from the metadata.
    """
    lost = set()
    with open_clip(clip.path) as source:
        copied = [s for s in source.streams if s.type not in ("video", "attachment") and not _is_chapters(source, s)]
        packets = first_packets(source, [stream.index for stream in copied])
        for stream in copied:
            why = refusal(stream, packets[stream.index], suffix, _open_target)
            if why and stream.type in KEPT_TYPES:
                raise VideoError(
                    f"{clip.path}: stream {stream.index} ({stream.type}) does not go into {suffix} ({why}); choose "
                    f"{_other(suffix)}"
                )
            if why or (stream.type == "data" and "timecode" in stream.metadata):
                lost.add(stream.index)
    return frozenset(lost)


def _losses(source: Any, clip: Clip, lost: Lost, suffix: str) -> Iterator[str]:
    timecode = find_timecode(source, source.streams[clip.stream])
    has_track = FORMATS[suffix] in TIMECODE_TRACKS
    if timecode is not None and has_track and not fits_track(timecode, clip.rate):
        yield f"lost: the time code {timecode}, which {suffix} does not take at {float(clip.rate):g} frames per second"
    for index in sorted(lost):
        if timecode is None or "timecode" not in source.streams[index].metadata:
            yield f"lost: stream {index} ({source.streams[index].type}), which {suffix} does not take"
        elif not has_track:
            yield f"the time code {timecode} (stream {index}) becomes metadata: {suffix} has no track for it"


def _rounding(clip: Clip, times: Sequence[int], suffix: str) -> Iterator[str]:
    """Report times that are rounded to milliseconds; VideoError where two frames would have the same one."""
    exact = [time * clip.time_base * 1000 for time in times]
    # As FFmpeg rounds: halves go up.
    if any(math.floor(one + HALF) == math.floor(other + HALF) for one, other in pairwise(exact)):
        raise VideoError(
            f"{clip.path}: some frames are less than a millisecond apart, and {suffix} counts in milliseconds, so they "
            "would have the same time; choose .mp4 or .mov"
        )
    if any(time.denominator > 1 for time in exact):
        yield f"times are rounded to milliseconds, which {suffix} counts in; .mp4 and .mov keep them exactly"


def _earliest(source: Any) -> Fraction:
    """Return the earliest time of the first packets in seconds; 0 for Matroska, where earlier packets are a codec's
    delay."""
    if "matroska" in source.format.name:
        return Fraction(0)
    packets = islice(source.demux(), FIRST_PACKETS)
    return min((packet.pts * packet.time_base for packet in packets if packet.pts is not None), default=Fraction(0))


def decoding_times(times: Sequence[int]) -> list[int]:
    """Return the decoding times of packets, ascending and never after presentation; `times` are presentation times.

    They are the frames' own times, shifted back by as many frames as packets precede their turn.
    """
    shown = sorted(times)
    rank = {time: number for number, time in enumerate(shown)}
    delay = max((number - rank[time] for number, time in enumerate(times)), default=0)
    back = shown[delay] - shown[0] if shown else 0
    return [shown[n - delay] if n >= delay else shown[n] - back for n in range(len(shown))]


def _open_target(target: str | BinaryIO, suffix: str, metadata: dict[str, str]) -> Any:
    # Without random numbers and dates: equal work gives equal bytes.
    options = {"fflags": "+bitexact"}
    if FORMATS[suffix] in ("mp4", "mov") and not {key.lower() for key in _kept(metadata)} <= QUICKTIME_TAGS:
        options["movflags"] = "use_metadata_tags"
    return pyav().open(target, "w", format=FORMATS[suffix], container_options=options)


def _add_streams(source: Any, made: Any, clip: Clip, encoding: Encoding, lost: Lost) -> dict[int, Any]:
    """Add a stream for each of the source's except the lost ones, in its order; return them by the source's index."""
    streams: dict[int, Any] = {}
    for stream in source.streams:
        if stream.index in lost or _is_chapters(source, stream):
            continue
        if stream.index == clip.stream:
            new = made.add_stream(encoding.codec, rate=Fraction(*encoding.rate), options=dict(encoding.options))
            configure(new.codec_context, encoding)
            new.time_base = clip.time_base
            if clip.matrix:
                new.set_display_matrix(clip.matrix)
        elif stream.type == "attachment":
            name = stream.metadata.get("filename", f"attachment-{stream.index}")
            new = made.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
        else:
            new = made.add_stream_from_template(stream, opaque=True)
        new.metadata.update(_kept(stream.metadata))
        new.disposition = stream.disposition
        streams[stream.index] = new
    return streams


def _is_chapters(source: Any, stream: Any) -> bool:
    """Return whether a stream is QuickTime's text track of chapters, which the writer recreates and FFmpeg does not
    read."""
    is_discarded = stream.discard == pyav().stream.Discard.all
    return stream.type == "data" and bool(source.chapters()) and bool(is_discarded)


def _add_metadata(source: Any, made: Any, clip: Clip, time_range: TimeRange) -> None:
    made.metadata.update(_kept(source.metadata))
    chapters = source.chapters()
    if not time_range.is_whole:
        chapters = list(_chapters_within(chapters, time_range.start * clip.time_base, time_range.end * clip.time_base))
    made.set_chapters(chapters)


def _add_timecode(source: Any, video: Any, clip: Clip, time_range: TimeRange) -> None:
    """Store the time code on the video stream, where all containers accept it; for a part, that of its first frame."""
    timecode = find_timecode(source, source.streams[clip.stream])
    if timecode is None:
        return
    for key in [key for key in video.metadata if key.lower() == "timecode"]:
        del video.metadata[key]
    frames = round((time_range.start - clip.times[0]) * clip.time_base * clip.rate)
    video.metadata["timecode"] = later_timecode(timecode, frames, clip.rate)


def _chapters_within(chapters: Iterable[Any], start: Fraction, end: Fraction) -> Iterator[Any]:
    for chapter in chapters:
        base = chapter["time_base"]
        first, last = max(chapter["start"] * base, start), min(chapter["end"] * base, end)
        if first < last:
            yield {**chapter, "start": round((first - start) / base), "end": round((last - start) / base)}


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value for key, value in metadata.items()
        if key.lower() not in MADE_BY_WRITERS and not key.upper().startswith("_STATISTICS")
    }  # fmt: skip


def _video_packets(
    segments: Sequence[Path], times: list[int], clip: Clip, time_range: TimeRange, video: Any
) -> Iterator[Any]:
    av = pyav()
    shown = sorted(times)
    lasts = {time: after - time for time, after in zip(shown, [*shown[1:], time_range.end], strict=True)}
    decoded = iter(decoding_times(times))
    moved = 0 if time_range.is_whole else time_range.start
    for path in segments:
        for frame in read_packets(path):
            packet = av.Packet(frame.data)
            packet.stream, packet.time_base = video, clip.time_base
            packet.pts, packet.dts = frame.time - moved, next(decoded) - moved
            packet.duration, packet.is_keyframe = max(1, lasts[frame.time]), frame.is_key
            yield packet


def _copied(source: Any, streams: dict[int, Any], clip: Clip, time_range: TimeRange) -> Iterator[Any]:
    """Yield packets of all other streams unchanged; for a part, those that begin in it."""
    av = pyav()
    wanted = [s for s in source.streams if s.index in streams and s.index != clip.stream and s.type != "attachment"]
    if not wanted:
        return
    start, end = time_range.start * clip.time_base, time_range.end * clip.time_base
    try:
        for packet in source.demux(wanted):
            if packet.size and packet.stream.disposition & av.stream.Disposition.attached_pic:
                packet.pts = packet.dts = 0  # A cover picture has no time, and no part of the clip to be in.
                packet.stream = streams[packet.stream_index]
                yield packet
                continue
            if packet.dts is None and packet.pts is None:
                continue
            if not time_range.is_whole and not _move(packet, start, end):
                continue
            packet.stream = streams[packet.stream_index]
            yield packet
    except av.InvalidDataError:
        return  # The end of a truncated file; `probe` has reported it.


def _move(packet: Any, start: Fraction, end: Fraction) -> bool:
    """Return whether the packet begins within the part, and shift its times to start there."""
    base = packet.time_base
    time = packet.pts if packet.pts is not None else packet.dts
    if not start <= time * base < end:
        return False
    for name in ("pts", "dts"):
        value = getattr(packet, name)
        if value is not None:
            setattr(packet, name, value - round(start / base))
    return True


def _second(packet: Any) -> Fraction:
    time = packet.dts if packet.dts is not None else packet.pts
    second: Fraction = time * packet.time_base
    return second
