"""What clips carry beside the usual is kept, or its loss is told."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="needs PyAV")

import av

from attention_model import ATTENTION_MODEL
from clips import Video, add_video, picture, plain, video_packets
from hiif_deploy.cli import app as cli
from hiif_deploy.errors import VideoError
from hiif_deploy.video.probe import probe
from hiif_deploy.video.run import VideoResult
from stream_compare import differences, read_pictures

Clip = Callable[[str], Path]
Upscale = Callable[..., tuple[Path, VideoResult]]


def with_cover(path: Path) -> bytes:
    """A clip with a cover picture; its bytes."""
    image = io.BytesIO()
    with av.open(image, "w", format="image2pipe") as container:
        stream: Any = container.add_stream("mjpeg", rate=1)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(picture(0, (32, 32)), format="rgb48le").reformat(format="yuvj420p")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    image.seek(0)
    with av.open(path, "w") as made, av.open(image, format="mjpeg") as source:
        pictures = add_video(made, Video())
        cover = made.add_stream_from_template(source.streams.video[0], opaque=True)
        cover.disposition = av.stream.Disposition.attached_pic
        made.start_encoding()
        packet = next(packet for packet in source.demux() if packet.size)
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        made.mux(packet)
        made.mux(list(video_packets(pictures, Video())))
    return image.getvalue()


@pytest.mark.parametrize("options", [{}, {"frames": (3, 9)}])
def test_a_cover_picture_is_kept(upscale: Upscale, tmp_path: Path, options: dict[str, Any]) -> None:
    source = tmp_path / "cover.mp4"
    image = with_cover(source)
    output, _ = upscale(source, **options)
    with av.open(str(output)) as made:
        cover = made.streams.video[1]
        assert cover.disposition == av.stream.Disposition.attached_pic
        assert [bytes(packet) for packet in made.demux(cover) if packet.size] == [image]


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_metadata_of_any_name_is_kept(upscale: Upscale, tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"phone{suffix}"
    with av.open(source, "w", container_options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update({"title": "T", "com.apple.quicktime.location.ISO6709": "+48.1+011.5/"})
        pictures = add_video(container, Video())
        container.start_encoding()
        container.mux(list(video_packets(pictures, Video())))
    output, _ = upscale(source)
    assert differences(source, output, scale=2) == []


def test_a_truncated_file_is_reported_with_what_is_missing(clip: Clip) -> None:
    (note,) = probe(clip("truncated")).notes
    assert "ends at 0.48 s of 0.8 s" in note


@pytest.mark.parametrize("name", ["constant", "movie", "variable", "variable_mp4", "late", "one_frame", "everything"])
def test_a_whole_file_is_not_called_truncated(clip: Clip, name: str) -> None:
    assert probe(clip(name)).notes == ()


def test_lost_transparency_is_reported(upscale: Upscale, tmp_path: Path) -> None:
    source = tmp_path / "alpha.mkv"
    plain(source, Video(frames=2, codec="ffv1", pixel_format="yuva420p", options=()))
    assert upscale(source)[1].notes == ("lost: transparency, which is not upscaled",)


def test_rgb_that_becomes_luma_and_chroma_is_reported_and_tagged(upscale: Upscale, tmp_path: Path) -> None:
    """Untagged RGB, which FFV1 writes."""
    source = tmp_path / "rgb.mkv"
    plain(source, Video(frames=2, codec="ffv1", pixel_format="bgr0", options=(), colours=(2, 2, 2, 0)))
    output, result = upscale(source, codec="libx264")
    assert result.notes == ("RGB becomes yuv444p, BT.709",)
    assert read_pictures(output).facts["matrix"] == 1
    assert upscale(source, codec="ffv1")[1].notes == ()


def fast(path: Path, rate: int) -> Path:
    """Three frames, whose times are exact."""
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture(number, (24, 32)), format="rgb48le").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_clock_that_is_too_coarse_is_reported(upscale: Upscale, tmp_path: Path) -> None:
    source = fast(tmp_path / "fast.mp4", 30)
    assert "times are rounded to milliseconds" in " ".join(upscale(source, suffix=".mkv")[1].notes)
    assert upscale(source)[1].notes == ()


def test_frames_that_would_share_a_millisecond_are_refused_with_the_way_out(upscale: Upscale, tmp_path: Path) -> None:
    source = fast(tmp_path / "faster.mp4", 2400)
    with pytest.raises(VideoError, match=r"less than a millisecond apart.* choose \.mp4 or \.mov"):
        upscale(source, suffix=".mkv")
    assert [path.name for path in tmp_path.iterdir()] == ["faster.mp4"]
    output, _ = upscale(source)
    assert differences(source, output, scale=2) == []


def channel(path: Path, second: tuple[int, int]) -> Path:
    """Four frames of 32x24, then four of another (height, width)."""
    with av.open(path, "w") as container:
        stream = add_video(container, Video())
        container.start_encoding()
        for start, size in ((0, Video().size), (4, second)):
            for packet in in_band(Video(frames=4, size=size, step=partial(moved, start))):
                packet.stream = stream
                container.mux(packet)
    return path


def moved(start: int, number: int) -> int:
    """Milliseconds."""
    return 40 * (start + number)


def in_band(video: Video) -> Iterator[Any]:
    """Packets with their stream's headers among them, as broadcasts have it."""
    context: Any = av.CodecContext.create("libx264", "w")
    context.height, context.width = video.size
    context.pix_fmt, context.time_base, context.options = video.pixel_format, Fraction(1, 1000), dict(video.options)
    for number in range(video.frames):
        frame = av.VideoFrame.from_ndarray(picture(number, video.size), format="rgb48le")
        frame = frame.reformat(format=video.pixel_format)
        frame.pts, frame.time_base = video.step(number), context.time_base
        yield from context.encode(frame)
    yield from context.encode(None)


def test_frames_of_another_size_fill_the_same_output_and_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, made = channel(tmp_path / "channel.ts", (36, 40)), tmp_path / "large.mkv"
    words = ["upscale", str(source), "-o", str(made), "-b", ATTENTION_MODEL, "--scale", "2", "--statistics", "reuse"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    said = capsys.readouterr().err
    assert not end.value.code, said
    assert "8 frames in, 8 out" in said
    assert "4 frames were not 32x24 as the first; they fill the same output" in said
    assert read_pictures(made).size == (48, 64)


def test_frames_larger_than_the_output_are_refused_with_the_way_out(upscale: Upscale, tmp_path: Path) -> None:
    source = channel(tmp_path / "channel.ts", (96, 128))
    with pytest.raises(VideoError, match=r"frame 4 is 128x96, unlike the first one, .* --size of at least 128x96"):
        upscale(source, suffix=".mkv")
