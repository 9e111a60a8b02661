"""What the window shows; and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from hiif_deploy import OptionError, Upscaler
from hiif_deploy.cli import watch
from hiif_deploy.cli.watch import GAP, LABEL, parse_source, require_window, sheets, show, side_by_side
from hiif_deploy.opencv import FrameWriter


def no_display() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}


def test_the_frame_stands_left_and_its_enlargement_right() -> None:
    frame = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    large = np.full((4, 6, 3), 200, np.uint8)
    sheet = side_by_side(frame, large)
    assert sheet.shape == (LABEL + 4, 12 + GAP, 3)
    np.testing.assert_array_equal(sheet[LABEL:, :3], np.broadcast_to(frame[0, 0], (4, 3, 3)))
    np.testing.assert_array_equal(sheet[LABEL:, 3:6], np.broadcast_to(frame[0, 1], (4, 3, 3)))
    np.testing.assert_array_equal(sheet[LABEL:, 6 + GAP :], large)
    assert side_by_side(frame, large, "words")[:LABEL].any()


def test_each_frame_is_shown_with_what_the_model_makes_of_it() -> None:
    frames = [np.full((12, 16, 3), value, np.uint8) for value in (40, 200)]
    ticks = iter([0.0, 0.5, 0.75])
    with Upscaler("hiif-video") as upscaler:
        first, second = sheets(upscaler, [(0, frames[0]), (4, frames[1])], 1.5, clock=lambda: next(ticks))
        expected = cv2.cvtColor(upscaler.upscale(frames[1], scale=1.5), cv2.COLOR_RGB2BGR)
    label = "16x12 -> 24x18  hiif-video x1.5  4.0 fps, 3 of 5 dropped"
    np.testing.assert_array_equal(second, side_by_side(frames[1], expected, label))
    assert first.shape == second.shape == (LABEL + 18, 48 + GAP, 3)


@pytest.mark.parametrize(("words", "expected"), [("0", 0), ("12", 12), ("clip.mp4", "clip.mp4"), ("²", "²")])
def test_a_number_is_a_cameras_index(words: str, expected: object) -> None:
    assert parse_source(words) == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a display can be taken away on Linux only")
def test_where_no_window_can_be_opened_the_command_says_so(tmp_path: Path) -> None:
    with FrameWriter(tmp_path / "clip.avi", fps=10) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
    command = [sys.executable, "-m", "hiif_deploy.cli", "watch", str(tmp_path / "clip.avi")]
    done = subprocess.run(command, capture_output=True, text=True, env=no_display(), check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("hiif-deploy: error: no window can be opened here (")
    assert "hiif-deploy upscale CLIP" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_absent_clip_is_named_before_a_window_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "require_window", lambda: pytest.fail("a window was tried"))
    with pytest.raises(Exception, match=r"absent\.mp4: no such file"):
        watch.watch(str(tmp_path / "absent.mp4"))


def test_pictures_are_shown_where_there_is_a_display() -> None:
    try:
        require_window()
    except OptionError as error:
        pytest.skip(str(error))
    assert show([np.zeros((20, 30, 3), np.uint8)] * 3) == 3
