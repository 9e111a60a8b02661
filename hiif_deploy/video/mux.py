"""Segments and everything else that the clip holds, into one file. Nothing is encoded here."""

from __future__ import annotations

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
"""Metadata, in lower case, that the container's writer makes itself."""
FORMATS = {".mkv": "matroska", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm"}
"""Suffixes that can be written → FFmpeg's formats."""
QUICKTIME_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "creation_time",
}  # fmt: skip
"""Metadata that MP4 and QuickTime have places of their own for; any other is stored by its name."""
TIMECODE_TRACKS = ("mp4", "mov")
"""Formats whose writers make a time code track from the metadata of the video stream."""
LATER = (".mkv", ".webm")
"""Containers whose times begin at zero at the earliest."""
HALF = Fraction(1, 2)
KEPT_TYPES = ("video", "audio", "subtitle", "attachment")
"""Streams of other types are data: where the container does not take them they are left out, and that is reported."""
FIRST_PACKETS = 256
"""Among so many is the earliest of every stream."""

Lost = frozenset[int]
"""Indices of streams that a container does not take."""
NONE_LOST: Lost = frozenset()


@dataclass(frozen=True)
class Cut:
    """The part of the clip that is made."""

    start: int
    """Time of the first frame."""
    end: int
    """Time where the last one ends."""
    is_whole: bool = True
    """Whether it is all of the clip; then nothing is moved."""


def write_clip(
    clip: Clip, encoding: Encoding, segments: Sequence[Path], cut: Cut, lost: Lost, target: Path, suffix: str
) -> None:  # fmt: skip
    """Write the file of the container that `suffix` names, without the streams that `check_clip` calls lost.

    Raises VideoError where the container does not take a stream, OSError where the disk is full.
    """
    av = pyav()
    tables = [read_table(path) for path in segments]
    times = [time for _, part in tables for time in part]
    try:
        with open_clip(clip.path) as source, _open_target(str(target), suffix, source.metadata) as made:
            streams = _add_streams(source, made, clip, encoding, lost)
            _add_facts(source, made, clip, cut)
            _add_timecode(source, streams[clip.stream], clip, cut)
            made.start_encoding()
            video = streams[clip.stream]
            _check_headers(video, [headers for headers, part in tables if part])
            packets = _video_packets(segments, times, clip, cut, video)
            for packet in heapq.merge(packets, _copied(source, streams, clip, cut), key=_second):
                made.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise VideoError(
            f"{clip.path}: its streams do not go into {suffix} ({error}); choose {_other(suffix)}"
        ) from error


def check_clip(clip: Clip, encoding: Encoding, times: Sequence[int], suffix: str) -> tuple[Lost, tuple[str, ...]]:
    """Write the head of such a file to memory, to learn before the work what the container does not take.

    `times` are those that its frames will have. The streams that are lost, and what is lost or moved, one sentence
    each. VideoError where it does not go.
    """
    # Its refusals are about the encoder, not the container: they come first.
    Encoder(encoding)
    try:
        with open_clip(clip.path) as source, _open_target(io.BytesIO(), suffix, source.metadata) as made:
            lost = _lost_streams(clip, suffix)
            streams = _add_streams(source, made, clip, encoding, lost)
            cut = Cut(clip.times[0], clip.end)
            _add_facts(source, made, clip, cut)
            _add_timecode(source, streams[clip.stream], clip, cut)
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
    """Indices of the data streams that the container does not take. VideoError for sound or subtitles that it does not.

    QuickTime's time code track is left out as well: writers make it anew from the metadata.
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
    """VideoError where two frames would be shown at the same millisecond."""
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
    """Of the times of the first packets, in seconds; 0 of Matroska, which calls what lies before a codec's delay."""
    if "matroska" in source.format.name:
        return Fraction(0)
    packets = islice(source.demux(), FIRST_PACKETS)
    return min((packet.pts * packet.time_base for packet in packets if packet.pts is not None), default=Fraction(0))


def decoding_times(times: Sequence[int]) -> list[int]:
    """When packets are to be decoded, ascending and never after they are shown; `times` are those of showing.

    The frames' own times, moved back by as many frames as packets come before their turn.
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


def _add_streams(
    source: Any, made: Any, clip: Clip, encoding: Encoding, lost: Lost
) -> dict[int, Any]:  # fmt: skip
    """A stream for each of the source but those that are lost, in its order; by the source's index."""
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
    """QuickTime keeps chapters as a track of text as well, which the writer makes itself; FFmpeg gives none of it."""
    is_discarded = stream.discard == pyav().stream.Discard.all
    return stream.type == "data" and bool(source.chapters()) and bool(is_discarded)


def _add_facts(source: Any, made: Any, clip: Clip, cut: Cut) -> None:
    made.metadata.update(_kept(source.metadata))
    chapters = source.chapters()
    if not cut.is_whole:
        chapters = list(_cut_chapters(chapters, cut.start * clip.time_base, cut.end * clip.time_base))
    made.set_chapters(chapters)


def _add_timecode(source: Any, video: Any, clip: Clip, cut: Cut) -> None:
    """On the video stream, where all containers have a place for it; of a part, that of its first frame."""
    timecode = find_timecode(source, source.streams[clip.stream])
    if timecode is None:
        return
    for key in [key for key in video.metadata if key.lower() == "timecode"]:
        del video.metadata[key]
    frames = round((cut.start - clip.times[0]) * clip.time_base * clip.rate)
    video.metadata["timecode"] = later_timecode(timecode, frames, clip.rate)


def _cut_chapters(chapters: Iterable[Any], start: Fraction, end: Fraction) -> Iterator[Any]:
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


def _check_headers(video: Any, found: Sequence[bytes]) -> None:
    own = bytes(video.codec_context.extradata or b"")
    if any(headers != own for headers in found):
        raise VideoError(
            "segments were encoded by another version of the codec than is installed now; --restart makes them again"
        )


def _video_packets(segments: Sequence[Path], times: list[int], clip: Clip, cut: Cut, video: Any) -> Iterator[Any]:
    av = pyav()
    shown = sorted(times)
    lasts = {time: after - time for time, after in zip(shown, [*shown[1:], cut.end], strict=True)}
    decoded = iter(decoding_times(times))
    moved = 0 if cut.is_whole else cut.start
    for path in segments:
        for frame in read_packets(path):
            packet = av.Packet(frame.data)
            packet.stream, packet.time_base = video, clip.time_base
            packet.pts, packet.dts = frame.time - moved, next(decoded) - moved
            packet.duration, packet.is_keyframe = max(1, lasts[frame.time]), frame.is_key
            yield packet


def _copied(source: Any, streams: dict[int, Any], clip: Clip, cut: Cut) -> Iterator[Any]:
    """Packets of all other streams as they are; of a part, those that begin in it."""
    av = pyav()
    wanted = [s for s in source.streams if s.index in streams and s.index != clip.stream and s.type != "attachment"]
    if not wanted:
        return
    start, end = cut.start * clip.time_base, cut.end * clip.time_base
    try:
        for packet in source.demux(wanted):
            if packet.size and packet.stream.disposition & av.stream.Disposition.attached_pic:
                packet.pts = packet.dts = 0  # A cover picture has no time, and no part of the clip to be in.
                packet.stream = streams[packet.stream_index]
                yield packet
                continue
            if packet.dts is None and packet.pts is None:
                continue
            if not cut.is_whole and not _move(packet, start, end):
                continue
            packet.stream = streams[packet.stream_index]
            yield packet
    except av.InvalidDataError:
        return  # The end of a truncated file; `probe` has told of it.


def _move(packet: Any, start: Fraction, end: Fraction) -> bool:
    """Whether the packet begins within the part; if so its times are counted from there."""
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
