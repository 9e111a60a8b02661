"""Colours, parts, codecs and refusals of upscaled clips; `test_streams.py` compares everything else."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

import av

from clips import DAMAGED, Video, plain
from hiif_deploy.errors import OptionError, VideoError
from hiif_deploy.video.run import VideoResult
from stream_compare import copied_packets, differences, read_pictures

Clip = Callable[[str], Path]
Upscale = Callable[..., tuple[Path, VideoResult]]


def test_matroska_moves_what_begins_before_zero_together_and_counts_in_milliseconds(
    clip: Clip, upscale: Upscale
) -> None:
    output, result = upscale(clip("variable_mp4"), suffix=".mkv")
    assert result.notes == ("all streams are shown 0.02133 s later, together: .mkv holds no times before zero",)
    before, after = (read_pictures(path).times for path in (clip("variable_mp4"), output))
    assert {round(1000 * (b - a)) for a, b in zip(before, after, strict=True)} == {21}
    sounds = (copied_packets(path)[1] for path in (clip("variable_mp4"), output))
    assert {round(1000 * (b[0] - a[0])) for a, b in zip(*sounds, strict=True)} == {21}


def test_odd_sides_stay_where_chroma_is_whole(clip: Clip, upscale: Upscale) -> None:
    output, _ = upscale(clip("odd"), scale=3)
    assert differences(clip("odd"), output, scale=3) == []


def test_odd_sides_become_the_next_even_ones_where_chroma_is_halved(clip: Clip, upscale: Upscale) -> None:
    output, result = upscale(clip("odd"), scale=1, pixel_format="yuv420p")
    assert read_pictures(output).size == (24, 32)
    assert result.notes == ("31x23 becomes 32x24: yuv420p needs even sides",)


@pytest.mark.parametrize("name", ["constant", "hdr"])
def test_the_enlarged_pictures_are_the_clips_own(clip: Clip, upscale: Upscale, name: str) -> None:
    """Shrunk again they are what they were: no shift of colours, range or time."""
    output, _ = upscale(clip(name), crf=1)
    with av.open(str(clip(name))) as small, av.open(str(output)) as large:
        for before, after in zip(small.decode(video=0), large.decode(video=0), strict=True):
            one = before.to_ndarray(format="rgb48le").astype(float)
            other = after.to_ndarray(format="rgb48le").astype(float)
            shrunk = other.reshape(one.shape[0], 2, one.shape[1], 2, 3).mean(axis=(1, 3))
            # A hundredth of white: a wrong matrix errs by several, a wrong range by seven of them.
            assert abs((shrunk - one).mean(axis=(0, 1))).max() < 0.01 * 65535


def test_a_part_begins_at_zero_with_its_sound_and_chapters(clip: Clip, upscale: Upscale) -> None:
    output, result = upscale(clip("everything"), frames=(5, 12))
    assert result.frames == 7
    pictures = read_pictures(output)
    assert pictures.times == tuple(Fraction(40 * n, 1000) for n in range(7))
    with av.open(str(output)) as made:
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in made.chapters()]
        assert chapters == [(0, Fraction(100, 1000)), (Fraction(100, 1000), Fraction(280, 1000))]
        times = [float(p.pts * p.time_base) for p in made.demux(audio=0) if p.pts is not None]
    assert 0 <= min(times) < 0.1
    assert max(times) < 0.28


def test_seconds_name_the_same_part(clip: Clip, upscale: Upscale) -> None:
    _, result = upscale(clip("variable"), seconds=(Fraction("0.13"), Fraction("0.2")))
    assert result.frames == 2


@pytest.mark.parametrize(("codec", "suffix"), [("libx265", ".mp4"), ("libsvtav1", ".webm"), ("ffv1", ".mkv")])
def test_the_codec_is_the_users_choice(clip: Clip, upscale: Upscale, codec: str, suffix: str) -> None:
    source = clip("variable")
    output, _ = upscale(source, scale=3, suffix=suffix, codec=codec, preset=None)
    assert len(read_pictures(output).times) == len(read_pictures(source).times)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("no_frames", {}, "holds no frames"),
        ("interlaced", {}, "ffmpeg -i interlaced.mkv -vf bwdif"),
        ("constant", {"codec": "h266_magic"}, "no such encoder"),
        ("constant", {"pixel_format": "rgb24"}, "--pixel-format rgb24: libx264 takes yuv420p"),
        ("constant", {"frames": (5, 50)}, "it has frames 0:12"),
        ("constant", {"preset": "warp"}, "choose another --codec, --pixel-format or option"),
        ("everything", {"suffix": ".mp4"}, "choose .mkv"),
        ("constant", {"suffix": ".webm"}, "choose .mkv"),
        ("damaged", {}, "frame 5 cannot be decoded; --on-error repeat"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(
    clip: Clip, upscale: Upscale, tmp_path: Path, name: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises((VideoError, OptionError)) as found:
        upscale(clip(name), **options)
    assert told in str(found.value)
    # Only what is found amid the work leaves work behind.
    assert bool(list(tmp_path.iterdir())) == (name == "damaged")


def test_a_damaged_frame_shows_its_neighbour_and_is_reported(clip: Clip, upscale: Upscale) -> None:
    output, result = upscale(clip("damaged"), on_error="repeat", codec="ffv1")
    assert result.damaged == DAMAGED
    assert result.frames == 12
    with av.open(str(output)) as made:
        frames = [frame.to_ndarray() for frame in made.decode(video=0)]
    # Frame 5 begins a segment, so the last sound frame before it is decoded again.
    assert [np.array_equal(frames[4], frame) for frame in frames[4:8]] == [True, True, True, False]


def test_seconds_count_from_the_first_frame_where_a_clip_begins_later(upscale: Upscale, tmp_path: Path) -> None:
    source = tmp_path / "broadcast.ts"
    plain(source, Video(step=lambda number: 1020 + 40 * number))
    assert read_pictures(source).times[0] > 1
    output, result = upscale(source, suffix=".mkv", seconds=(Fraction(0), Fraction("0.2")))
    assert result.frames == 5
    assert read_pictures(output).times[0] == 0
