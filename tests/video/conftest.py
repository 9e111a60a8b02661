"""Shared by the tests of video: clips, made when first requested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.geometry.target import Target
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import plan_video
from hiif_deploy.video.run import VideoResult, make_video


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name → path of a clip of `clips.CLIPS`. Tests read them only."""
    pytest.importorskip("av", reason="needs PyAV")
    from clips import make_clip

    folder = tmp_path_factory.mktemp("clips")
    return lambda name: make_clip(name, folder)


@pytest.fixture(scope="session")
def video_upscaler() -> Iterator[Upscaler]:
    """The shipped model for moving pictures."""
    with Upscaler("hiif-video", engine=EngineOptions(engine="onnxruntime", threads=1)) as upscaler:
        yield upscaler


@pytest.fixture
def upscale(video_upscaler: Upscaler, tmp_path: Path) -> Callable[..., tuple[Path, VideoResult]]:
    """(clip, scale, suffix, upscaler, options) → the upscaled clip, in segments of 5 frames, and its result."""

    def work(
        source: Path, scale: float = 2.0, suffix: str = "", upscaler: Upscaler = video_upscaler, **options: Any
    ) -> tuple[Path, VideoResult]:
        output = tmp_path / f"large{suffix or source.suffix}"
        plan = plan_video(source, output, Target(scale=scale), VideoOptions(segment_frames=5, **options))
        return output, make_video(plan, upscaler, output, style="none")

    return work
