"""What an enlarged clip lost or changed of its source, stream by stream, read with PyAV alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

WRITTEN_BY_CONTAINERS = {
    "encoder", "duration", "major_brand", "minor_version", "compatible_brands", "handler_name", "vendor_id",
}  # fmt: skip
"""Metadata, in lower case, that a container's writer makes itself."""
COPIED_SIDE_DATA = {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "DISPLAYMATRIX"}
"""Of decoded frames."""


@dataclass(frozen=True)
class Pictures:
    """A video stream, decoded."""

    times: tuple[Fraction, ...]
    """Seconds at which each frame is shown."""
    size: tuple[int, int]
    """(height, width)."""
    facts: dict[str, Any]
    """What must be the same in the enlarged clip."""


def differences(
    before: Path, after: Path, *, scale: float, tick: Fraction = Fraction(0), shift: Fraction = Fraction(0)
) -> list[str]:
    """One sentence for each thing that is not as it was; none where only the pictures' size changed.

    Times may differ by `tick` seconds, which is for containers that count in milliseconds; all of them, in every
    stream, must be later by `shift` seconds, which is for containers that know no negative ones.
    """
    with av.open(before) as first, av.open(after) as second:
        found = [*_of_containers(first, second, tick), *_of_streams(first, second)]
    found += _of_pictures(read_pictures(before, shift), read_pictures(after), scale, tick)
    found += _of_packets(copied_packets(before, shift), copied_packets(after), tick)
    return found


def read_pictures(path: Path, shift: Fraction = Fraction(0)) -> Pictures:
    """The first video stream's frames, `shift` seconds later; those that cannot be decoded are left out."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = list(_frames(container, stream))
        context = stream.codec_context
        facts: dict[str, Any] = {"aspect": stream.sample_aspect_ratio or None}
        if frames:
            frame = frames[0]
            facts |= {
                "bits": frame.format.components[0].bits,
                "rotation": frame.rotation,
                "matrix": frame.colorspace,
                "primaries": frame.color_primaries,
                "transfer": frame.color_trc,
                "range": frame.color_range,
                "side data": {d.type.name: bytes(d) for d in frame.side_data if d.type.name in COPIED_SIDE_DATA},
            }
        times = tuple(frame.pts * frame.time_base + shift for frame in frames)
        return Pictures(times, (context.height, context.width), facts)


def copied_packets(path: Path, shift: Fraction = Fraction(0)) -> dict[int, list[tuple[Fraction, Fraction, bytes]]]:
    """Stream index → (time + `shift`, duration, bytes) of the packets of sound and subtitles."""
    packets: dict[int, list[tuple[Fraction, Fraction, bytes]]] = {}
    with av.open(path) as container:
        streams = [s for s in container.streams if s.type in ("audio", "subtitle")]
        for packet in container.demux(streams) if streams else ():
            if packet.dts is not None:
                base = packet.time_base
                seconds = ((packet.pts or 0) * base + shift, (packet.duration or 0) * base)
                packets.setdefault(packet.stream_index, []).append((*seconds, bytes(packet)))
    return packets


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def _of_containers(first: Any, second: Any, tick: Fraction) -> Iterator[str]:
    yield from _of_metadata("the clip", first.metadata, second.metadata)
    before, after = (
        [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in clip.chapters()]
        for clip in (first, second)
    )
    if len(before) != len(after):
        yield f"{len(after)} chapters, before {len(before)}"
    for one, other in zip(before, after, strict=False):
        if one[2] != other[2] or any(abs(a - b) > tick for a, b in zip(one[:2], other[:2], strict=True)):
            yield f"chapter {other}, before {one}"


def _of_streams(first: Any, second: Any) -> Iterator[str]:
    before, after = ([(s.type, _codec(s)) for s in clip.streams if s.type != "data"] for clip in (first, second))
    if before != after:
        yield f"streams are {after}, before {before}"
        return
    kept = ([s for s in clip.streams if s.type != "data"] for clip in (first, second))
    for one, other in zip(*kept, strict=True):
        name = f"stream {one.index} ({one.type})"
        yield from _of_metadata(name, one.metadata, other.metadata)
        if one.disposition != other.disposition:
            yield f"{name}: disposition {other.disposition!r}, before {one.disposition!r}"
        if one.type == "attachment" and (one.data, one.mimetype) != (other.data, other.mimetype):
            yield f"{name}: other content or type"
        if one.type in ("audio", "subtitle") and one.codec_context.extradata != other.codec_context.extradata:
            yield f"{name}: other codec headers"


def _codec(stream: Any) -> str | None:
    """The codec of what is copied: pictures are encoded anew."""
    return None if stream.type in ("video", "attachment") else stream.codec_context.name


def _of_metadata(name: str, before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    one, other = (
        {key.lower(): value for key, value in tags.items() if key.lower() not in WRITTEN_BY_CONTAINERS}
        for tags in (before, after)
    )
    if one != other:
        yield f"{name}: metadata {other}, before {one}"


def _of_pictures(before: Pictures, after: Pictures, scale: float, tick: Fraction) -> Iterator[str]:
    expected = tuple(round(side * scale) for side in before.size)
    if after.size != expected:
        yield f"pictures are {after.size}, expected {expected}"
    for key, value in before.facts.items():
        if after.facts.get(key) != value:
            yield f"pictures: {key} is {after.facts.get(key)!r}, before {value!r}"
    if len(before.times) != len(after.times):
        yield f"{len(after.times)} frames, before {len(before.times)}"
    moved = [n for n, pair in enumerate(zip(before.times, after.times, strict=False)) if abs(pair[0] - pair[1]) > tick]
    if moved:
        n = moved[0]
        yield f"{len(moved)} frames at other times: frame {n} at {after.times[n]} s, before {before.times[n]} s"


def _of_packets(before: dict[int, Any], after: dict[int, Any], tick: Fraction) -> Iterator[str]:
    if before.keys() != after.keys():
        yield f"streams with packets: {sorted(after)}, before {sorted(before)}"
    for index in before.keys() & after.keys():
        one, other = before[index], after[index]
        if [packet[2] for packet in one] != [packet[2] for packet in other]:
            yield f"stream {index}: {len(other)} packets of other content, before {len(one)}"
        elif any(abs(a[0] - b[0]) > tick for a, b in zip(one, other, strict=True)):
            yield f"stream {index}: packets have other times"
        # Containers that count otherwise need not store how long packets last.
        elif not tick and [packet[1] for packet in one] != [packet[1] for packet in other]:
            yield f"stream {index}: packets last longer or shorter"
