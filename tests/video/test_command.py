"""`upscale` with a clip, as a user types it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs PyAV")

from attention_model import ATTENTION_MODEL
from hiif_deploy.cli import app as cli

Clip = Callable[[str], Path]
Upscale = Callable[..., tuple[int, str]]


@pytest.fixture
def upscale(clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Upscale:
    """(words) → exit code and stderr of upscaling a clip of one frame."""

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["upscale", str(clip("one_frame")), "-o", str(tmp_path / "large.mkv"), "--threads", "1", *words])
        return int(end.value.code or 0), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "words",
    [("--quality", "90"), ("--lossless",), ("--format", "png"), ("--statistics", "sampled", "--report-deviation")],
)
def test_options_for_pictures_are_refused_by_name(upscale: Upscale, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, said = upscale("--scale", "2", *words)
    option = next(word for word in reversed(words) if word.startswith("--"))
    assert code == 2
    assert f"{option}: for pictures, and the input is a video" in said
    assert list(tmp_path.iterdir()) == []


def test_a_clip_takes_the_model_for_moving_pictures_and_says_so(upscale: Upscale) -> None:
    code, said = upscale("--scale", "2")
    assert code == 0, said
    assert said.splitlines()[0] == "model: hiif-video, for moving pictures; --bundle takes another"


def test_a_clip_takes_the_model_that_is_named(upscale: Upscale) -> None:
    code, said = upscale("--scale", "2", "-b", ATTENTION_MODEL, "--json")
    assert code == 0, said
    assert "model:" not in said
