"""Frames as OpenCV has them: blue first, in order, as many out as in."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from hiif_deploy import FrameError, ImageError, OptionError, Upscaler
from hiif_deploy.images.samples import sample
from hiif_deploy.opencv import Frame, FrameWriter, NewestFrames, frame_rate, newest_frames, read_frames, upscaled

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames of 32 × 24 pixels, each of another grey."""
    path = tmp_path / "small.avi"
    with FrameWriter(path, fps=12.5) as writer:
        for n in range(5):
            writer.write(np.full((24, 32, 3), 40 * n + 20, np.uint8))
    return path


def test_a_clip_is_read_enlarged_and_written_frame_by_frame(clip: Path, tmp_path: Path) -> None:
    with Upscaler("hiif-video") as upscaler, FrameWriter(tmp_path / "large.avi", fps=frame_rate(clip)) as writer:
        for frame in upscaled(upscaler, read_frames(clip), scale=1.5):
            writer.write(frame)
    large = list(read_frames(tmp_path / "large.avi"))
    assert [frame.shape for frame in large] == [(36, 48, 3)] * 5
    assert [round(float(frame.mean()) - 20, -1) for frame in large] == [0, 40, 80, 120, 160]
    assert frame_rate(tmp_path / "large.avi") == 12.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.avi", "small.avi"]


def test_frames_are_those_of_the_upscaler_with_blue_first() -> None:
    rgb = np.ascontiguousarray(sample("coffee")[:20, :30])
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    with Upscaler("hiif-video") as upscaler:
        (found,) = upscaled(upscaler, [bgr], size=(33, 47))
        np.testing.assert_array_equal(found[..., ::-1], upscaler.upscale(rgb, size=(33, 47)))


def test_a_slow_reader_sees_the_newest_frame_and_misses_those_before() -> None:
    taken, produced = threading.Event(), threading.Event()

    def frames() -> Iterator[Frame]:
        yield np.zeros((2, 2, 3), np.uint8)
        assert taken.wait(60)
        yield from (np.full((2, 2, 3), n, np.uint8) for n in (1, 2, 3))
        produced.set()

    newest = iter(NewestFrames(frames(), interval=0))
    assert next(newest)[0] == 0
    taken.set()
    assert produced.wait(60)
    number, frame = next(newest)
    assert (number, int(frame[0, 0, 0])) == (3, 3)
    assert next(newest, None) is None


def test_frames_of_a_clip_come_in_order_up_to_the_last(clip: Path) -> None:
    seen = [(number, round(float(frame.mean()) - 20, -1)) for number, frame in newest_frames(clip)]
    assert all(grey == 40 * number for number, grey in seen)
    assert seen == sorted(set(seen))
    assert seen[-1][0] == 4


def test_newest_frames_that_are_not_taken_to_the_end_leave_no_thread(clip: Path) -> None:
    frames = newest_frames(clip)
    next(frames)
    next(frames)  # the thread starts behind the first frame
    before = threading.active_count()
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before - 1


def test_an_error_of_the_source_is_raised_where_frames_are_taken() -> None:
    with pytest.raises(ImageError, match=r"absent\.mp4: no such file"):
        next(newest_frames("absent.mp4"))


def test_a_real_clip_comes_out_at_its_new_size(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "video" / "flower.mp4"
    few = (cv2.resize(frame, (96, 54)) for frame, _ in zip(read_frames(source), range(3), strict=False))
    with Upscaler("hiif-video") as upscaler, FrameWriter(tmp_path / "o.mp4", fps=frame_rate(source)) as writer:
        for frame in upscaled(upscaler, few, size=(136, 240)):
            writer.write(frame)
    assert [frame.shape for frame in read_frames(tmp_path / "o.mp4")] == [(136, 240, 3)] * 3


def test_the_readmes_example_runs_on_a_real_clip(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shared / "data" / "video" / "flower.mp4"
    with FrameWriter(tmp_path / "small.mp4", fps=frame_rate(source)) as writer:
        for frame, _ in zip(read_frames(source), range(3), strict=False):
            writer.write(cv2.resize(frame, (64, 36)))
    blocks = README.read_text(encoding="utf-8").split("```python\n")[1:]
    (example,) = (block.partition("```")[0] for block in blocks if "FrameWriter" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert [frame.shape for frame in read_frames(tmp_path / "large.mp4")] == [(72, 128, 3)] * 3
    # OpenCV writes rates in thousandths.
    assert frame_rate(tmp_path / "large.mp4") == pytest.approx(frame_rate(source), abs=1e-3)


@pytest.mark.parametrize("name", ["o.mp4", "o.avi"])
def test_an_odd_size_is_refused_because_opencv_would_cut_it(tmp_path: Path, name: str) -> None:
    with FrameWriter(tmp_path / name, fps=10) as writer, pytest.raises(FrameError, match="even size, such as 18x16"):
        writer.write(np.zeros((15, 17, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frame", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), "frame"])
def test_what_is_no_bgr_frame_is_refused(frame: object) -> None:
    with Upscaler("hiif-video") as upscaler, pytest.raises(FrameError, match=r"expected .*blue first"):
        next(upscaled(upscaler, [frame], scale=2))  # type: ignore[list-item]


def test_a_missing_and_a_foreign_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.mp4: no such file"):
        next(read_frames(tmp_path / "absent.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ImageError, match="OpenCV cannot open it as a video"):
        next(read_frames(tmp_path / "text.mp4"))
    with pytest.raises(ImageError, match="reports a frame rate of"):
        frame_rate(tmp_path / "text.mp4")


def test_nothing_is_left_where_writing_is_given_up(tmp_path: Path) -> None:
    def give_up() -> None:
        with FrameWriter(tmp_path / "o.avi", fps=10) as writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))
            writer.write(np.zeros((16, 18, 3), np.uint8))

    with pytest.raises(FrameError, match=r"frame of 18x16, expected \(16, 16\)"):
        give_up()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "fps"), [("o.avi", 0.0), ("o.avi", float("nan")), ("o.txt", 25.0)])
def test_a_writer_that_makes_no_sense_is_refused(tmp_path: Path, name: str, fps: float) -> None:
    with pytest.raises(OptionError, match="expected"):
        FrameWriter(tmp_path / name, fps=fps)


MEMORY_OVER_FRAMES = """
import sys
from pathlib import Path
from statistics import median
from hiif_deploy import Upscaler
from hiif_deploy.opencv import read_frames, upscaled

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

with Upscaler("hiif-video", engine="onnxruntime") as upscaler:
    seen = [resident() for _ in upscaled(upscaler, read_frames(sys.argv[1]), scale=1.5)]
# The encoder's buffers go back to the system with every frame, so memory is some hundredths more or less by chance;
# frames that were kept would be half as much again.
print(len(seen), int(median(seen[50:150])), int(median(seen[-100:])))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_memory_stays_flat_over_hundreds_of_frames(tmp_path: Path) -> None:
    with FrameWriter(tmp_path / "long.avi", fps=25) as writer:
        for n in range(450):
            writer.write(np.full((40, 48, 3), n % 256, np.uint8))
    command = [sys.executable, "-c", MEMORY_OVER_FRAMES, str(tmp_path / "long.avi")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    frames, warm, last = map(int, done.stdout.split())
    assert frames == 450
    assert last <= 1.1 * warm, f"{warm} pages around the hundredth frame, {last} at the end"
