"""A video over two workers is the file that one machine makes, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="needs PyAV")

from clips import make_clip
from hiif_deploy import Upscaler
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.cluster.pool import ClusterOptions, Pool
from hiif_deploy.cluster.segments import SentClip, make_segments_on
from hiif_deploy.errors import ClusterError, VideoError
from hiif_deploy.geometry.target import Target
from hiif_deploy.video.journal import journal_folder
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import VideoPlan, plan_video
from hiif_deploy.video.run import MakeSegments, make_video
from hiif_deploy.video.task import Segment, SegmentTask

ENGINE = EngineOptions(engine="onnxruntime", threads=1)
pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def upscaler() -> Iterator[Upscaler]:
    with Upscaler("hiif-video", engine=ENGINE) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_clip("variable_mp4", tmp_path)


def plan(source: Path, output: Path, on_error: Any = "stop") -> VideoPlan:
    return plan_video(source, output, Target(scale=1.5), VideoOptions(segment_frames=2, on_error=on_error))


def open_pool(upscaler: Upscaler, attempts: int = 3) -> Pool:
    options = ClusterOptions("auto", attempts=attempts)
    return Pool(upscaler.bundle, options, ENGINE, upscaler.options)


def killing(pool: Pool) -> MakeSegments:
    """As the cluster makes them, but a worker is killed when the first one is there."""

    def make(tasks: Sequence[SegmentTask], folder: Path, monitor: Any) -> Iterator[Segment]:
        for number, segment in enumerate(make_segments_on(pool, tasks, folder, monitor)):
            if number == 0:
                os.kill(pool.worker_infos[-1].process, signal.SIGKILL)
            yield segment

    return make


def test_a_killed_workers_segment_is_made_elsewhere_and_the_file_is_the_same(
    upscaler: Upscaler, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, many = tmp_path / "one.mp4", tmp_path / "many.mp4"
    make_video(plan(source, one), upscaler, one, style="none")
    with open_pool(upscaler) as pool:
        assert pool.share.workers == 2
        result = make_video(plan(source, many), upscaler, many, style="none", make=killing(pool))
    assert result.frames == 14
    assert many.read_bytes() == one.read_bytes()
    (line,) = caplog.messages
    assert line.startswith("segment ")
    assert "was lost" in line
    assert not journal_folder(many).exists()


def test_one_machine_goes_on_with_what_a_cluster_left(upscaler: Upscaler, source: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one.mp4", tmp_path / "many.mp4"
    make_video(plan(source, one), upscaler, one, style="none")

    def stop_after_two(pool: Pool) -> MakeSegments:
        def make(tasks: Sequence[SegmentTask], folder: Path, monitor: Any) -> Iterator[Segment]:
            for number, segment in enumerate(make_segments_on(pool, tasks, folder, monitor)):
                if number == 2:
                    raise KeyboardInterrupt
                yield segment

        return make

    with open_pool(upscaler) as pool, pytest.raises(KeyboardInterrupt, match="4 of 14 frames"):
        make_video(plan(source, many), upscaler, many, style="none", make=stop_after_two(pool))
    result = make_video(plan(source, many), upscaler, many, style="none")
    assert (result.frames, result.resumed) == (14, 4)
    assert many.read_bytes() == one.read_bytes()


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs a path that leads elsewhere in each process")
def test_a_clip_that_workers_do_not_see_is_sent(
    upscaler: Upscaler, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    one, many = tmp_path / "one.mp4", tmp_path / "many.mp4"
    make_video(plan(source, one), upscaler, one, style="none")
    monkeypatch.chdir(source.parent)
    here_only = Path("/proc/self/cwd") / source.name
    sent, send = list[int](), SentClip.send
    monkeypatch.setattr(SentClip, "send", lambda clip, part: (sent.append(part), send(clip, part)))

    def in_small_parts(tasks: Sequence[SegmentTask], folder: Path, monitor: Any) -> Iterator[Segment]:
        return make_segments_on(pool, tasks, folder, monitor, part=1_000)

    with open_pool(upscaler) as pool:
        make_video(plan(here_only, many), upscaler, many, style="none", make=in_small_parts)
    assert many.read_bytes() == one.read_bytes()
    assert 1_000 in sent
    # A busy machine may keep the workers waiting.
    assert [text for text in caplog.messages if not text.startswith("waiting for a worker")] == []


def test_what_a_frame_leads_to_is_reported_as_on_one_machine(upscaler: Upscaler, tmp_path: Path) -> None:
    damaged, made = make_clip("damaged", tmp_path), tmp_path / "made.mkv"
    with open_pool(upscaler) as pool, pytest.raises(VideoError, match=r"frame \d+ cannot be decoded"):
        make_video(plan(damaged, made), upscaler, made, style="none", make=partial(make_segments_on, pool))


def test_a_segment_that_no_worker_survives_is_given_up_and_the_rest_is_kept(
    upscaler: Upscaler, source: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made.mp4"
    with open_pool(upscaler, attempts=1) as pool, pytest.raises(ClusterError, match="given up after 1 attempts"):
        make_video(plan(source, made), upscaler, made, style="none", make=killing(pool))
    assert (journal_folder(made) / "done.jsonl").read_text().count("\n") >= 1
