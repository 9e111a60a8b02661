"""Frames that a container gives no time of showing, and frames that are missing between others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV")

import av

from clips import X264, Video, picture, plain
from hiif_deploy.cli import app as cli
from hiif_deploy.errors import VideoError
from hiif_deploy.geometry.target import Target
from hiif_deploy.video.frames import task_frames
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import plan_video
from hiif_deploy.video.probe import probe

Clip = Callable[[str], Path]
REORDERED = {**X264, "bf": "2", "x264-params": "b-adapt=0:b-pyramid=none"}
FRAMES = 30


def avi(path: Path, codec: str, options: dict[str, str], frames: int = FRAMES) -> Path:
    """AVI stores packets in the order of decoding and no times of showing."""
    with av.open(path, "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, (24, 32)), format="rgb48le").reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown_numbers(source: Path, segment_frames: int, on_error: Any = "stop") -> list[tuple[int, int]]:
    """(number, number that the frame itself shows) of all frames, segment by segment."""
    options = VideoOptions(segment_frames=segment_frames, on_error=on_error)
    plan = plan_video(source, source.with_suffix(".mkv"), Target(scale=1.0), options)
    found = []
    for task in plan.tasks:
        for frame in task_frames(task):
            assert frame.picture is not None
            columns = frame.picture.astype(np.int32).mean(axis=(0, 2))
            found.append((frame.number, int(columns.argmax())))
    return found


@pytest.mark.parametrize("segment_frames", [4, 9, 100])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", REORDERED),
        ("libx264", {**REORDERED, "x264-params": "b-adapt=0:open-gop=1:keyint=6:min-keyint=6:scenecut=0"}),
        ("libx264", {**X264, "bf": "0"}),
        ("mpeg4", {"bf": "2", "g": "6", "q": "2"}),
        ("ffv1", {}),
    ],
)
def test_frames_of_avi_come_in_their_order_in_every_segment(
    tmp_path: Path, codec: str, options: dict[str, str], segment_frames: int
) -> None:
    source = avi(tmp_path / "clip.avi", codec, options)
    assert shown_numbers(source, segment_frames) == [(number, number) for number in range(FRAMES)]


def test_a_damaged_frame_of_avi_is_found_and_the_next_key_frame_is_in_its_place(tmp_path: Path) -> None:
    source = avi(tmp_path / "clip.avi", "libx264", REORDERED)
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)]
    data = source.read_bytes()
    (tmp_path / "clip.avi").write_bytes(data.replace(packets[3], bytes(len(packets[3]))))
    with pytest.raises(VideoError, match="cannot be decoded"):
        shown_numbers(source, 100)
    found = shown_numbers(source, 100, "repeat")
    assert [number for number, _ in found] == list(range(FRAMES))
    assert found[8:] == [(number, number) for number in range(8, FRAMES)]


def hole(path: Path) -> Path:
    """Fifty frames, of which noise took the place of some in the middle."""
    plain(path, Video(frames=50))
    data = bytearray(path.read_bytes())
    start, stop = int(0.5 * len(data)), int(0.65 * len(data))
    data[start:stop] = np.random.default_rng(0).bytes(stop - start)
    path.write_bytes(data)
    return path


def test_frames_that_damage_took_are_counted_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = hole(tmp_path / "clip.mkv")
    clip = probe(source)
    assert clip.count + clip.missing == 50
    words = ["upscale", str(source), "-b", "hiif-video", "--scale", "1", "--dry-run", "--json", "-q"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert not end.value.code
    (told,) = json.loads(capsys.readouterr().out)["files"]
    assert told["missing_frames"] == clip.missing
    assert any(f"about {clip.missing} frames are missing in 2 gaps" in note for note in told["notes"])


@pytest.mark.parametrize("name", ["constant", "movie", "variable", "variable_mp4", "late", "everything", "one_frame"])
def test_a_whole_file_has_no_frames_missing(clip: Clip, name: str) -> None:
    assert probe(clip(name)).missing == 0
