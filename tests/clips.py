"""Tiny clips of every kind that video tools are known to break, made with PyAV: a table of name → maker.

Frames show their own number: a bright bar that moves by one pixel per frame, over a gradient of the frame's tint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

FONT = bytes(range(256)) * 3
"""Stands for a font file: attachments are copied as bytes."""
SUBTITLES = """1
00:00:00,040 --> 00:00:00,200
One

2
00:00:00,240 --> 00:00:00,500
Two – ümläut
"""
MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
"""BT.2020 display of 1,000 cd/m², as x265 takes it."""
CHAPTERS = (
    {"id": 1, "start": 0, "end": 300, "time_base": Fraction(1, 1000), "metadata": {"title": "Begin"}},
    {"id": 2, "start": 300, "end": 480, "time_base": Fraction(1, 1000), "metadata": {"title": "End"}},
)
RATE = 48_000
"""Audio samples per second."""
X264 = {"preset": "ultrafast", "bf": "2", "g": "8", "crf": "16", "threads": "1"}


@dataclass(frozen=True)
class Video:
    """How the picture stream of a clip is made."""

    frames: int = 12
    """How many."""
    size: tuple[int, int] = (24, 32)
    """(height, width)."""
    codec: str = "libx264"
    """FFmpeg's name."""
    pixel_format: str = "yuv420p"
    """FFmpeg's name."""
    step: Callable[[int], int] = lambda number: 40 * number
    """Frame number → presentation time in milliseconds."""
    options: tuple[tuple[str, str], ...] = tuple(X264.items())
    """Of the encoder."""
    colours: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Matrix, primaries, transfer by H.273, and FFmpeg's range (1 limited, 2 full)."""
    aspect: Fraction | None = None
    """Of one pixel."""
    rotation: int = 0
    """Degrees that players turn it."""


def picture(number: int, size: tuple[int, int]) -> NDArray[np.uint16]:
    """[H, W, 3] RGB of 16 bits."""
    height, width = size
    down, across = np.mgrid[0:height, 0:width]
    tint = np.array([0.3 + 0.05 * (number % 8), 0.5, 0.7])
    values = (0.2 + 0.6 * (down / max(height, 2) + across / max(width, 2)) / 2)[..., None] * tint
    values[:, number % width] = 0.95
    return np.round(values * 65535).astype(np.uint16)


def add_video(container: Any, video: Video) -> Any:
    """The stream of `video`, without its packets."""
    stream = container.add_stream(video.codec, rate=25, options=dict(video.options))
    stream.height, stream.width = video.size
    stream.pix_fmt = video.pixel_format
    stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
    context = stream.codec_context
    context.colorspace, context.color_primaries, context.color_trc, context.color_range = video.colours
    if video.aspect is not None:
        context.sample_aspect_ratio = video.aspect
    if video.rotation:
        stream.set_display_rotation(video.rotation)
    return stream


def video_packets(stream: Any, video: Video) -> Iterable[Any]:
    """Packets of all frames."""
    matrix, levels = video.colours[0], video.colours[3]
    for number in range(video.frames):
        frame = av.VideoFrame.from_ndarray(picture(number, video.size), format="rgb48le")
        frame = frame.reformat(format=video.pixel_format, dst_colorspace=matrix if matrix != 2 else None,
                               dst_color_range=levels)  # fmt: skip
        frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = video.colours
        frame.pts, frame.time_base = video.step(number), Fraction(1, 1000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def add_audio(container: Any, codec: str, **options: str) -> Any:
    """A mono stream."""
    return container.add_stream(codec, rate=RATE, layout="mono", options=options)


def audio_packets(stream: Any, milliseconds: int, tone: float = 440.0) -> Iterable[Any]:
    """Packets of a sine."""
    samples = RATE * milliseconds // 1000
    wave = 0.4 * np.sin(2 * np.pi * tone * np.arange(samples) / RATE)
    for start in range(0, samples, 1024):
        part = np.round(wave[start : start + 1024] * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def mux_in_order(container: Any, packets: Iterable[Any]) -> None:
    """Write packets of several streams by their time."""
    container.mux(sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base))


def plain(
    path: Path, video: Video, audio_ms: int = 0, audio_codec: str = "aac", chapters: Sequence[dict[str, Any]] = ()
) -> None:
    """One video stream, and a track of sound where `audio_ms`."""
    with av.open(path, "w") as container:
        container.set_chapters(list(chapters))
        pictures = add_video(container, video)
        sound = add_audio(container, audio_codec) if audio_ms else None
        packets = list(video_packets(pictures, video))
        if sound is not None:
            packets += audio_packets(sound, audio_ms)
        container.start_encoding()
        mux_in_order(container, packets)


def everything(path: Path) -> None:
    """Two tracks of sound, subtitles, chapters, a font, titles, languages, dispositions."""
    video = Video(frames=15)
    text = path.with_suffix(".srt")
    text.write_text(SUBTITLES, encoding="utf-8")
    with av.open(path, "w") as container, av.open(text) as subtitles:
        container.metadata.update({"title": "Everything", "comment": "a clip with every kind of stream"})
        pictures = add_video(container, video)
        first, second = add_audio(container, "flac"), add_audio(container, "libopus")
        words = container.add_stream_from_template(subtitles.streams[0])
        container.add_attachment("Font Sans.ttf", "font/ttf", FONT)
        pictures.metadata.update({"title": "Pictures", "language": "und"})
        first.metadata.update({"language": "deu", "title": "Deutsch"})
        second.metadata.update({"language": "eng", "title": "Commentary"})
        words.metadata.update({"language": "fra", "title": "Français"})
        pictures.disposition = first.disposition = av.stream.Disposition.default
        second.disposition = av.stream.Disposition.comment
        words.disposition = av.stream.Disposition.forced
        container.set_chapters(list(CHAPTERS))
        container.start_encoding()
        packets = [*video_packets(pictures, video), *audio_packets(first, 600), *audio_packets(second, 600, 880.0)]
        for packet in subtitles.demux():
            if packet.dts is not None:
                packet.stream = words
                packets.append(packet)
        mux_in_order(container, packets)
    text.unlink()


def hdr(path: Path) -> None:
    """HEVC of 10 bits with BT.2020, PQ, and the display and light levels it was mastered for."""
    levels = f"repeat-headers=1:hdr10=1:master-display={MASTERING}:max-cll=1000,400"
    parameters = f"log-level=none:pools=1:frame-threads=1:keyint=8:{levels}"
    options = (("preset", "ultrafast"), ("x265-params", parameters))
    plain(path, Video(8, (64, 64), "libx265", "yuv420p10le", options=options, colours=(9, 9, 16, 1)), audio_ms=300)


def no_frames(path: Path) -> None:
    """A video stream without a single packet, beside sound."""
    with av.open(path, "w") as container:
        add_video(container, Video())
        sound = add_audio(container, "flac")
        container.start_encoding()
        container.mux(list(audio_packets(sound, 200)))


def truncated(path: Path) -> None:
    """Ends in the middle of a packet, as after a broken download."""
    plain(path, Video(frames=20), audio_ms=800, audio_codec="flac")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])


def damaged(path: Path) -> None:
    """Two packets in the middle hold noise; their times are whole.

    FFV1: every frame stands by itself and has a checksum, so exactly `DAMAGED` cannot be decoded.
    """
    video = Video(
        frames=12,
        codec="ffv1",
        options=(("slicecrc", "1"), ("level", "3"), ("slices", "4"), ("g", "1"), ("threads", "1")),
    )
    noise = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = add_video(container, video)
        for number, packet in enumerate(list(video_packets(stream, video))):
            if number in DAMAGED:
                made = av.Packet(noise.bytes(packet.size))
                made.stream, made.pts, made.dts, made.time_base = stream, packet.pts, packet.dts, packet.time_base
                made.duration, made.is_keyframe = packet.duration, packet.is_keyframe
                packet = made
            container.mux(packet)


DAMAGED = (5, 6)
"""Frames of `damaged` that cannot be decoded."""
INTERLACED = (
    ("preset", "ultrafast"),
    ("x264-params", "interlaced=1:tff=1"),
    ("flags", "+ildct+ilme"),
    ("threads", "1"),
)
UNEVEN: Sequence[int] = (0, 40, 57, 131, 132, 200, 333, 340, 400, 555, 600, 611, 700, 703)

CLIPS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "constant": (".mkv", lambda path: plain(path, Video(), audio_ms=480, audio_codec="flac")),
    "movie": (".mp4", lambda path: plain(path, Video(), audio_ms=480, chapters=CHAPTERS)),
    "variable": (".mkv", lambda path: plain(path, Video(len(UNEVEN), step=UNEVEN.__getitem__))),
    "variable_mp4": (".mp4", lambda path: plain(path, Video(len(UNEVEN), step=UNEVEN.__getitem__), audio_ms=700)),
    "late": (".mkv", lambda path: plain(path, Video(step=lambda n: 500 + 40 * n), audio_ms=960, audio_codec="flac")),
    "hdr": (".mkv", hdr),
    "hdr_mp4": (".mp4", hdr),
    "full_range": (".mp4", lambda path: plain(path, Video(colours=(5, 5, 6, 2)))),
    "everything": (".mkv", everything),
    "anamorphic": (".mkv", lambda path: plain(path, Video(aspect=Fraction(64, 45)))),
    "anamorphic_mp4": (".mp4", lambda path: plain(path, Video(aspect=Fraction(64, 45)))),
    "rotated": (".mp4", lambda path: plain(path, Video(rotation=90), audio_ms=480)),
    "odd": (".mkv", lambda path: plain(path, Video(size=(23, 31), pixel_format="yuv444p"))),
    "one_frame": (".mkv", lambda path: plain(path, Video(frames=1), audio_ms=40, audio_codec="flac")),
    "long_audio": (".mp4", lambda path: plain(path, Video(frames=6), audio_ms=1500)),
    "no_frames": (".mkv", no_frames),
    "truncated": (".mkv", truncated),
    "interlaced": (".mkv", lambda path: plain(path, Video(options=INTERLACED, size=(32, 32)))),
    "damaged": (".mkv", damaged),
}
"""Name → suffix and maker."""


def make_clip(name: str, folder: Path) -> Path:
    """The clip of that name in `folder`, made once."""
    suffix, make = CLIPS[name]
    path = folder / f"{name}{suffix}"
    if not path.exists():
        make(path)
    return path
