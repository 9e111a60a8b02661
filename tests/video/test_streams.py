"""Every stream of every kind of clip comes out as it went in, run as a user runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.cli import app as cli

pytest.importorskip("av", reason="needs PyAV")

import av
import numpy as np

from clips import DAMAGED
from stream_compare import differences, read_pictures

Clip = Callable[[str], Path]
MILLISECOND = Fraction(1, 1000)


def upscale(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as end:
        cli.main(["upscale", "-b", "hiif-video", *map(str, words)])
    return int(end.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize(
    "name",
    [
        "constant", "movie", "variable", "variable_mp4", "late", "hdr", "hdr_mp4", "full_range", "everything",
        "anamorphic", "anamorphic_mp4", "rotated", "one_frame", "long_audio", "truncated",
    ],
)  # fmt: skip
def test_nothing_but_the_size_changes(
    clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = clip(name)
    made = tmp_path / source.name
    code, _, said = upscale(capsys, source, "-o", made, "--scale", "1.5")
    assert code == 0, said
    assert differences(source, made, scale=1.5) == []
    assert [path.name for path in tmp_path.iterdir()] == [made.name]


def test_odd_sides_are_kept_where_the_pixel_format_has_them(
    clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = upscale(capsys, clip("odd"), "-o", tmp_path / "odd.mkv", "--scale", "1")
    assert code == 0, said
    assert differences(clip("odd"), tmp_path / "odd.mkv", scale=1) == []


def test_small_pictures_become_hevc_of_ten_bits(clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, wanted = tmp_path / "made.mkv", ("--codec", "libx265", "--pixel-format", "yuv420p10le")
    code, _, said = upscale(capsys, clip("constant"), "-o", made, "--scale", "1.5", *wanted)
    assert code == 0, said
    assert differences(clip("constant"), made, scale=1.5) == ["pictures: bits is 10, before 8"]


@pytest.mark.parametrize("name", ["movie", "rotated", "long_audio", "hdr_mp4", "variable_mp4"])
def test_another_container_keeps_all_within_its_clock(
    clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    made = tmp_path / "made.mkv"
    code, _, said = upscale(capsys, clip(name), "-o", made, "--scale", "1.5")
    assert code == 0, said
    # Matroska counts in milliseconds from 0, and AAC's first packet has a time before 0: all streams move together.
    # It also has no `und` language and no handler's name.
    found = differences(clip(name), made, scale=1.5, tick=MILLISECOND, shift=Fraction(21, 1000))
    assert [line for line in found if "metadata" not in line] == []


def test_frames_that_cannot_be_decoded_follow_the_policy(
    clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, times = clip("damaged"), [Fraction(40 * n, 1000) for n in range(12)]
    code, _, said = upscale(capsys, source, "-o", tmp_path / "stop.mkv", "--scale", "1.5")
    assert code == 1
    assert f"frame {DAMAGED[0]}" in said
    assert "--on-error" in said
    for policy, expected in (
        ("repeat", times),
        ("skip", [time for n, time in enumerate(times) if n not in DAMAGED]),
    ):
        made = tmp_path / f"{policy}.mkv"
        code, report, said = upscale(
            capsys, source, "-o", made, "--scale", "1.5", "--codec", "libx264", "--on-error", policy, "--json"
        )
        assert code == 0, said
        told = json.loads(report)["files"][0]
        assert told["damaged_frames"] == list(DAMAGED)
        assert (told["frames_in"], told["frames"]) == (12, len(expected))
        assert f"note: 12 frames in, {len(expected)} out, " in said
        assert list(read_pictures(made).times) == expected
    assert not (tmp_path / "stop.mkv").exists()


def test_a_repeated_frame_is_the_one_before(clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made.mkv"
    code, _, said = upscale(
        capsys, clip("damaged"), "-o", made, "--scale", "1", "--codec", "ffv1", "--on-error", "repeat"
    )
    assert code == 0, said
    with av.open(made) as container:
        frames = [frame.to_ndarray() for frame in container.decode(video=0)]
    same = [n for n in range(1, 12) if (frames[n] == frames[n - 1]).all()]
    assert same == list(DAMAGED)


@pytest.mark.parametrize(
    ("name", "reason"), [("no_frames", "holds no frames"), ("interlaced", "ffmpeg -i interlaced.mkv -vf bwdif")]
)
def test_what_cannot_be_enlarged_is_refused_with_the_reason(
    clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    code, _, said = upscale(capsys, clip(name), "-o", tmp_path / "o.mkv", "--scale", "2")
    assert code == 1
    assert reason in said
    assert list(tmp_path.iterdir()) == []


def test_a_real_clip_keeps_sound_and_time(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, made = tmp_path / "short.mp4", tmp_path / "made.mp4"
    _cut(shared / "data" / "video" / "bigbuckbunny.mp4", short, seconds=0.25, size=(72, 128))
    code, _, said = upscale(capsys, short, "-o", made, "--size", "256x144")
    assert code == 0, said
    assert differences(short, made, scale=2) == []


def test_a_name_with_spaces_and_accents_is_no_trouble(
    clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mein Film – été.mkv"
    shutil.copy(clip("one_frame"), source)
    code, _, said = upscale(capsys, source, "--scale", "1.5")
    assert code == 0, said
    assert differences(source, tmp_path / "mein Film – été_x1.5.mkv", scale=1.5) == []


def _cut(source: Path, target: Path, *, seconds: float, size: tuple[int, int]) -> None:
    """The beginning of a clip, its pictures made smaller, its sound copied."""
    with av.open(source) as before, av.open(target, "w") as after:
        pictures: Any = after.add_stream("libx264", rate=before.streams.video[0].average_rate, options={"crf": "18"})
        pictures.height, pictures.width, pictures.pix_fmt = *size, "yuv420p"
        sound = after.add_stream_from_template(before.streams.audio[0])
        for packet in before.demux(before.streams.video[0], before.streams.audio[0]):
            if packet.dts is None or packet.dts * packet.time_base > seconds:
                continue
            if packet.stream.type == "audio":
                packet.stream = sound
                after.mux(packet)
                continue
            for frame in packet.decode():
                small = frame.reformat(size[1], size[0], "yuv420p")
                small.pict_type = 0
                after.mux(pictures.encode(small))
        after.mux(pictures.encode(None))


def test_equal_frames_give_equal_packets_each_time() -> None:
    from hiif_deploy.video.encoder import Encoder
    from hiif_deploy.video.options import RULES
    from hiif_deploy.video.task import Encoding

    options = (("crf", "18"), ("preset", "medium"), *RULES["libx264"].fixed, ("threads", "1"))
    encoding = Encoding("libx264", (180, 320), "yuv420p", (25, 1), (1, 1000), tuple(sorted(options)))
    pictures = [np.random.default_rng(n).integers(0, 256, (270, 320)).astype(np.uint8) for n in range(4)]

    def encode() -> bytes:
        encoder = Encoder(encoding)
        for number, pixels in enumerate(pictures):
            encoder.add(av.VideoFrame.from_ndarray(pixels, "yuv420p"), 40 * number)
        return encoder.finish() + b"".join(packet.data for packet in encoder.packets)

    assert len({encode() for _ in range(12)}) == 1
