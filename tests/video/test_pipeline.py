"""Threads end together; memory does not grow; progress tells how far the work is."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs PyAV")

from clips import Video, plain
from hiif_deploy.errors import VideoError
from hiif_deploy.geometry.target import Target
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video.monitor import Monitor
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.pipeline import BoundedQueue, Pipeline, StoppedError
from hiif_deploy.video.plan import plan_video
from hiif_deploy.video.segments import make_segments

Clip = Callable[[str], Path]


def our_threads() -> list[str]:
    """Names of threads of a line that run."""
    return [thread.name for thread in threading.enumerate() if thread.name in ("hiif-decode", "hiif-encode")]


def test_the_first_error_of_a_thread_ends_all_and_is_the_one_that_is_raised() -> None:
    def fail() -> None:
        raise VideoError("the first")

    def work() -> None:
        with Pipeline() as line:
            empty, full = BoundedQueue(line, 1), BoundedQueue(line, 1)
            line.start("encode", lambda: [full.put(n) for n in range(9)] and None)
            line.start("decode", fail)
            empty.get()

    with pytest.raises(VideoError, match="the first"):
        work()
    assert our_threads() == []


def test_a_queue_is_bounded() -> None:
    with Pipeline() as line:
        channel = BoundedQueue(line, 2)
        line.start("decode", lambda: [channel.put(n) for n in range(9)] and None)
        time.sleep(0.05)
        assert channel.fill == 2
        assert [channel.get() for _ in range(9)] == list(range(9))
    with pytest.raises(StoppedError):
        channel.put(0)


@pytest.mark.parametrize("where", ["decode", "encode", "upscale"])
def test_an_error_anywhere_ends_the_work_and_leaves_no_thread(
    clip: Clip, video_upscaler: Upscaler, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_video(clip("constant"), tmp_path / "large.mkv", Target(scale=2.0), VideoOptions(segment_frames=4))
    name = {
        "decode": "frames.Converter.to_rgb",
        "encode": "encoder.Encoder.add",
        "upscale": "frame_upscaler.FrameUpscaler._render",
    }[where]

    def fail(*_: object, **__: object) -> None:
        raise VideoError(f"{where} failed")

    monkeypatch.setattr(f"hiif_deploy.video.{name}", fail)
    with pytest.raises(VideoError, match=f"{where} failed"):
        list(make_segments(plan.tasks, video_upscaler, tmp_path))
    assert our_threads() == []
    assert list(tmp_path.iterdir()) == []


def test_abandoned_work_leaves_no_thread(clip: Clip, video_upscaler: Upscaler, tmp_path: Path) -> None:
    plan = plan_video(clip("constant"), tmp_path / "large.mkv", Target(scale=2.0), VideoOptions(segment_frames=2))
    work = make_segments(plan.tasks, video_upscaler, tmp_path)
    next(work)
    work.close()
    assert our_threads() == []


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_over_a_thousand_frames(video_upscaler: Upscaler, tmp_path: Path) -> None:
    source = tmp_path / "long.mkv"
    plain(source, Video(frames=1300, size=(8, 16), step=lambda number: 40 * number))
    plan = plan_video(source, tmp_path / "x.mkv", Target(scale=1.0), VideoOptions(segment_frames=50, codec="ffv1"))
    seen: list[int] = []
    for segment in make_segments(plan.tasks, video_upscaler, tmp_path):
        (tmp_path / plan.tasks[segment.number].file_name).unlink()
        seen.append(resident_bytes())
    early, late = max(seen[2:6]), max(seen[-4:])
    assert len(seen) == len(plan.tasks)
    assert late < 1.02 * early, [value >> 20 for value in seen]


def test_json_lines_report_frames_pace_and_queues(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor("clip.mkv", 100, 2_000_000, done=40, style="json")
    monitor.fill.decoded = 3
    for _ in range(10):
        monitor.advance()
    time.sleep(0.01)
    monitor.close()
    told = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (told["done"], told["total"], told["decoded"], told["file"]) == (50, 100, 3, "clip.mkv")
    # Only frames of this run count: ten are made, fifty are left.
    assert told["eta"] == pytest.approx(5 * told["seconds"], abs=0.1)
    assert told["megapixels_per_second"] == pytest.approx(2 * told["fps"], rel=1e-3)
