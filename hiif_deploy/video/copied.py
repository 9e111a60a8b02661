"""Copied streams: whether a container accepts them, and the time code, which most containers store as metadata."""

import io
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from fractions import Fraction
from typing import Any

from hiif_deploy.video.pyav import pyav

TRIAL_PACKETS = 4
"""Packets of a stream that are written to memory to test whether its container accepts them."""
TRIAL_BYTES = 1 << 27
"""Bytes of a clip that are searched for these packets: those of a sparse track may lie anywhere."""
TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")
DROPPED_PER_MINUTE = 2
"""Frame numbers that a drop-frame time code of 30 frames per second skips, except in every tenth minute."""


def first_packets(source: Any, indices: Iterable[int], limit: int = TRIAL_BYTES) -> dict[int, list[Any]]:
    """Return the first packets of each stream by its index, from one pass over the clip that ends after `limit` bytes.

    A sparse track, such as subtitles of a few signs, may have none within the limit.
    """
    found: dict[int, list[Any]] = {index: [] for index in indices}
    with suppress(pyav().FFmpegError):  # the end of a truncated file
        for packet in source.demux() if found else ():
            limit -= packet.size
            held = found.get(packet.stream_index, [])
            if packet.stream_index in found and len(held) < TRIAL_PACKETS and packet.size and packet.dts is not None:
                held.append(packet)
            if limit <= 0 or all(len(packets) == TRIAL_PACKETS for packets in found.values()):
                break
    return found


def refusal(stream: Any, packets: Iterable[Any], suffix: str, open_target: Callable[..., Any]) -> str:
    """Return why the container of `suffix` refuses a stream with these packets; empty where it accepts them.

    Some containers accept a stream in their header and refuse its packets, so the first packets are written as well.
    """
    try:
        with open_target(io.BytesIO(), suffix, {}) as made:
            new = made.add_stream_from_template(stream, opaque=True)
            made.start_encoding()
            for packet in packets:
                packet.stream = new
                made.mux(packet)
    except (pyav().FFmpegError, ValueError) as error:
        return str(error)
    return ""


def find_timecode(source: Any, video: Any) -> str | None:
    """Return the time code of the first frame: QuickTime has it in a track, MXF in its header, Matroska in a tag."""
    tracks = [stream for stream in source.streams if stream.type == "data"]
    for holder in (video, *tracks, source):
        for key, value in holder.metadata.items():
            if key.lower() == "timecode" and TIMECODE.fullmatch(value):
                return str(value)
    return None


def fits_track(timecode: str, rate: Fraction) -> bool:
    """Return whether a QuickTime track accepts the code at that rate: FFmpeg drops frame numbers at multiples of 29.97
    only."""
    return timecode.count(":") == 3 or (rate / Fraction(30_000, 1001)).denominator == 1


def later_timecode(timecode: str, frames: int, rate: Fraction) -> str:
    """Return the time code `frames` frames after another one, at `rate` frames per second.

    With `;` or `.` before the frames it is SMPTE 12M's drop-frame count, which skips numbers to match the clock.
    """
    found = TIMECODE.fullmatch(timecode)
    assert found is not None, timecode
    base, mark = max(1, round(rate)), found[4]
    dropped = 0 if mark == ":" else DROPPED_PER_MINUTE * max(1, round(base / 30))
    hours, minutes, seconds, number = (int(found[group]) for group in (1, 2, 3, 5))
    minutes += 60 * hours
    count = (60 * minutes + seconds) * base + number - dropped * (minutes - minutes // 10) + frames
    if dropped:
        tens, rest = divmod(count, 600 * base - 9 * dropped)
        count += 9 * dropped * tens + dropped * max(0, (rest - dropped) // (60 * base - dropped))
    whole, number = divmod(count, base)
    return f"{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{number:02d}"
