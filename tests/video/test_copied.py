"""Data tracks and time codes: what a container does not take is found before the work, left out and reported."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs PyAV")

import av

from clips import Video, add_video, video_packets
from hiif_deploy.geometry.target import Target
from hiif_deploy.video.copied import first_packets, later_timecode
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import plan_video
from hiif_deploy.video.probe import probe
from hiif_deploy.video.run import VideoResult

Upscale = Callable[..., tuple[Path, VideoResult]]
FOUR = Video(frames=4)


def with_timecode(path: Path, timecode: str = "01:00:00:00", video: Video = FOUR) -> Path:
    """A clip with a time code; QuickTime and MP4 keep it in a track of data."""
    with av.open(path, "w") as container:
        pictures = add_video(container, video)
        pictures.metadata["timecode"] = timecode
        container.start_encoding()
        container.mux(list(video_packets(pictures, video)))
    return path


def broadcast(path: Path) -> Path:
    """A transport stream with a private track of data, as cameras and broadcasters write them."""
    with av.open(path, "w") as container:
        pictures, data = add_video(container, FOUR), container.add_data_stream("bin_data")
        container.start_encoding()
        container.mux(list(video_packets(pictures, FOUR)))
        for number in range(3):
            packet = av.Packet(b"position" * 4)
            packet.stream, packet.time_base = data, Fraction(1, 1000)
            packet.pts = packet.dts = 40 * number
            container.mux(packet)
    return path


def timecode(path: Path) -> str | None:
    """Of the video stream, as players read it."""
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.streams.video[0].metadata.items()}.get("timecode")


def sparse(path: Path) -> Path:
    """Eight frames, and a track of data whose second packet comes after all of them."""
    video = Video(frames=8)
    with av.open(path, "w", format="mpegts") as container:
        pictures, data = add_video(container, video), container.add_data_stream("bin_data")
        container.start_encoding()
        for time, packets in ((0, video_packets(pictures, video)), (400, ())):
            packet = av.Packet(b"position" * 4)
            packet.stream, packet.time_base = data, Fraction(1, 1000)
            packet.pts = packet.dts = time
            container.mux([packet, *packets])
    return path


def test_all_streams_are_tried_in_one_pass_of_bounded_length(tmp_path: Path) -> None:
    with av.open(sparse(tmp_path / "sparse.ts")) as source:
        index = source.streams.data[0].index
        assert len(first_packets(source, [index], limit=1000)[index]) == 1
        assert any(packet.size for packet in source.demux())
    with av.open(tmp_path / "sparse.ts") as source:
        found = first_packets(source, [index, source.streams.video[0].index])
        assert [len(packets) for packets in found.values()] == [2, 4]
    with av.open(tmp_path / "sparse.ts") as source:
        assert first_packets(source, []) == {}
        assert sum(packet.size > 0 for packet in source.demux()) == 10


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_a_time_code_track_is_kept_where_there_are_such_tracks(upscale: Upscale, tmp_path: Path, suffix: str) -> None:
    source = with_timecode(tmp_path / "camera.mov")
    output, result = upscale(source, suffix=suffix)
    assert result.notes == ()
    assert timecode(output) == "01:00:00:00"
    with av.open(str(output)) as made:
        assert [stream.type for stream in made.streams] == ["video", "data"]


def test_a_time_code_becomes_metadata_elsewhere_and_that_is_reported(upscale: Upscale, tmp_path: Path) -> None:
    output, result = upscale(with_timecode(tmp_path / "camera.mov"), suffix=".mkv")
    assert timecode(output) == "01:00:00:00"
    assert result.notes == ("the time code 01:00:00:00 (stream 1) becomes metadata: .mkv has no track for it",)
    back, result = upscale(output, suffix=".mov")
    assert timecode(back) == "01:00:00:00"


def test_a_part_of_a_clip_has_the_time_code_of_its_first_frame(upscale: Upscale, tmp_path: Path) -> None:
    output, _ = upscale(with_timecode(tmp_path / "camera.mov"), frames=(3, None))
    assert timecode(output) == "01:00:00:03"


def test_a_time_code_that_does_not_fit_the_rate_is_lost_and_reported(upscale: Upscale, tmp_path: Path) -> None:
    """Drop-frame codes are of 29.97 frames per second; a phone's rate varies."""
    source = with_timecode(tmp_path / "camera.mkv", "01:00:00;00")
    output, result = upscale(source, suffix=".mov")
    assert timecode(output) is None
    assert result.notes == ("lost: the time code 01:00:00;00, which .mov does not take at 25 frames per second",)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_data_that_a_container_does_not_take_is_lost_and_reported_while_planning(tmp_path: Path, suffix: str) -> None:
    source = broadcast(tmp_path / "camera.ts")
    plan = plan_video(source, tmp_path / f"large{suffix}", Target(scale=2.0), VideoOptions())
    assert plan.notes == (f"lost: stream 1 (data), which {suffix} does not take",)


def test_a_clip_with_data_is_enlarged(upscale: Upscale, tmp_path: Path) -> None:
    output, result = upscale(broadcast(tmp_path / "camera.ts"), suffix=".mkv")
    assert (result.frames, probe(output).count) == (4, 4)


@pytest.mark.parametrize(
    ("start", "frames", "rate", "expected"),
    [
        ("01:00:00:00", 26, Fraction(25), "01:00:01:01"),
        ("23:59:59:24", 1, Fraction(25), "00:00:00:00"),
        ("00:00:59;29", 1, Fraction(30_000, 1001), "00:01:00;02"),
        ("00:09:59;29", 1, Fraction(30_000, 1001), "00:10:00;00"),
        ("00:00:00;00", 107_892, Fraction(30_000, 1001), "01:00:00;00"),
        ("00:00:59;59", 1, Fraction(60_000, 1001), "00:01:00;04"),
        ("00:01:00;02", 1798, Fraction(30_000, 1001), "00:02:00;02"),
        ("00:00:59:23", 1, Fraction(24_000, 1001), "00:01:00:00"),
    ],
)
def test_time_codes_count_as_smpte_12m_does(start: str, frames: int, rate: Fraction, expected: str) -> None:
    assert later_timecode(start, frames, rate) == expected
