"""Work that was interrupted goes on, to the same bytes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="needs PyAV")

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.errors import VideoError
from hiif_deploy.geometry.target import Target
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video import run as run_module
from hiif_deploy.video import segments as segments_module
from hiif_deploy.video.journal import DONE_FILE, Journal, journal_folder
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import plan_video
from hiif_deploy.video.run import VideoResult, is_complete, make_video
from hiif_deploy.video.segments import make_segments

Clip = Callable[[str], Path]
SIZE = Target(scale=2.0)
SHORT = VideoOptions(segment_frames=2)
KILLS, ROUNDS = 20, 100
"""Moments at which the work is killed, and how often it is begun at most: some runs end before their moment comes."""


def make(source: Path, output: Path, upscaler: Upscaler, options: VideoOptions = SHORT, **more: Any) -> VideoResult:
    """`source` twice as large."""
    plan = plan_video(source, output, SIZE, options)
    return make_video(plan, upscaler, output, restart=options.restart, style="none", **more)


def make_in_child(source: Path, output: Path) -> None:
    """The whole work, in a process that will be killed."""
    with Upscaler("hiif-video", engine=EngineOptions(engine="onnxruntime", threads=1)) as upscaler:
        if not is_complete(output):
            make(source, output, upscaler)


def stop_after(count: int, upscaler: Upscaler, error: BaseException) -> Any:
    """Segments, of which the one after `count` fails with `error`."""

    def made(tasks: Any, folder: Path, monitor: Any) -> Any:
        for number, segment in enumerate(make_segments(tasks, upscaler, folder, monitor.advance)):
            if number == count:
                raise error
            yield segment

    return made


@pytest.fixture(scope="module")
def whole(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an uninterrupted run writes of the clip `everything`."""
    output = tmp_path_factory.mktemp("whole") / "large.mkv"
    make_in_child(clip("everything"), output)
    return output.read_bytes()


def test_killed_at_any_of_twenty_moments_it_ends_in_the_same_bytes(clip: Clip, whole: bytes, tmp_path: Path) -> None:
    """SIGKILL, seeded: some moments lie before the first segment, some between, some while all is put together."""
    output = tmp_path / "large.mkv"
    source = clip("everything")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hiif_deploy.upscaler", "hiif_deploy.video.run", "onnxruntime", "av"])
    moments = random.Random(0)
    # Twice: the first one waits for the server of forks, too.
    for _ in range(2):
        output.unlink(missing_ok=True)
        began = time.monotonic()
        child = context.Process(target=make_in_child, args=(source, output))
        child.start()
        child.join()
        took = time.monotonic() - began
        assert output.read_bytes() == whole
    kills, is_fresh = 0, True
    for _ in range(ROUNDS):
        child = context.Process(target=make_in_child, args=(source, output))
        if is_fresh:
            output.unlink(missing_ok=True)
        began = time.monotonic()
        child.start()
        child.join(moments.uniform(0.1, 1.0) * took)
        if child.is_alive():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
            # What stands under the output's name is whole, at any moment.
            assert not output.exists() or output.read_bytes() == whole
        else:
            assert child.exitcode == 0
            assert output.read_bytes() == whole
            # The machine may have become faster since.
            took = min(took, time.monotonic() - began) if is_fresh else took
        is_fresh = child.exitcode == 0
        if kills == KILLS:
            break
    assert kills == KILLS
    make_in_child(source, output)
    assert output.read_bytes() == whole
    assert not journal_folder(output).exists()


def test_what_is_done_is_not_done_again(clip: Clip, whole: bytes, video_upscaler: Upscaler, tmp_path: Path) -> None:
    output = tmp_path / "large.mkv"
    with pytest.raises(VideoError, match="power cut"):
        make(clip("everything"), output, video_upscaler, make=stop_after(3, video_upscaler, VideoError("power cut")))
    assert not output.exists()
    result = make(clip("everything"), output, video_upscaler)
    assert (result.frames, result.resumed) == (15, 6)
    assert output.read_bytes() == whole


def test_a_damaged_segment_is_made_again(clip: Clip, whole: bytes, video_upscaler: Upscaler, tmp_path: Path) -> None:
    output = tmp_path / "large.mkv"
    with pytest.raises(VideoError):
        make(clip("everything"), output, video_upscaler, make=stop_after(3, video_upscaler, VideoError("power cut")))
    segment = sorted(journal_folder(output).glob("*.segment"))[1]
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    assert make(clip("everything"), output, video_upscaler).resumed == 4
    assert output.read_bytes() == whole


def test_ctrl_c_says_how_to_go_on(clip: Clip, video_upscaler: Upscaler, tmp_path: Path) -> None:
    output = tmp_path / "large.mkv"
    plan = plan_video(clip("everything"), output, SIZE, SHORT)
    stopping = stop_after(2, video_upscaler, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as stop:
        make_video(plan, video_upscaler, output, style="none", make=stopping)
    assert str(stop.value).startswith(f"interrupted: 4 of 15 frames of {output} are saved")
    assert str(stop.value).endswith("run the same command again to resume")


def test_ctrl_c_at_the_command_line_says_that_alone(clip: Clip, tmp_path: Path) -> None:
    output = tmp_path / "large.mkv"
    words = ["upscale", str(clip("constant")), "-o", str(output), "-b", "hiif-video", "--segment-frames", "1"]
    command = [sys.executable, "-m", "hiif_deploy.cli", *words, "--scale", "20", "--threads", "1", "-q"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(run_module.__file__).parents[2])
    deadline = time.monotonic() + 60
    while not (journal_folder(output) / DONE_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    (told,) = error.strip().splitlines()
    assert f"of 12 frames of {output} are saved" in told


def test_a_full_disk_stops_cleanly_and_the_rest_follows(
    clip: Clip, whole: bytes, video_upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "large.mkv"
    real, count = segments_module.atomic_write, iter(range(100))

    def write_until_full(path: Path) -> Any:
        if next(count) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(segments_module, "atomic_write", write_until_full)
        with pytest.raises(VideoError, match="the disk is full"):
            make(clip("everything"), output, video_upscaler)
    assert make(clip("everything"), output, video_upscaler).resumed > 0
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (VideoOptions(segment_frames=2, crf=30), "changed: encoding"),
        (VideoOptions(segment_frames=3), "changed: frames and segments"),
        (VideoOptions(segment_frames=2, on_error="skip"), "changed: --on-error"),
    ],
)
def test_work_of_other_options_is_not_continued(
    clip: Clip, video_upscaler: Upscaler, tmp_path: Path, changed: VideoOptions, told: str
) -> None:
    output = tmp_path / "large.mkv"
    with pytest.raises(VideoError, match="stop"):
        make(clip("constant"), output, video_upscaler, make=stop_after(1, video_upscaler, VideoError("stop")))
    with pytest.raises(VideoError, match=told) as found:
        make(clip("constant"), output, video_upscaler, changed)
    assert "--restart" in str(found.value)


def test_work_of_another_model_is_not_continued_though_its_graphs_are_the_same(
    clip: Clip, video_upscaler: Upscaler, tmp_path: Path
) -> None:
    output, bundle = tmp_path / "large.mkv", open_bundle("hiif-video")
    before = bundle.contract.normalisation
    other = replace(before, mean=tuple(0.5 * value + 0.1 for value in before.mean))
    changed = replace(bundle, contract=replace(bundle.contract, normalisation=other))
    with pytest.raises(VideoError, match="stop"):
        make(clip("constant"), output, video_upscaler, make=stop_after(1, video_upscaler, VideoError("stop")))
    with (
        Upscaler(changed, engine=EngineOptions(engine="onnxruntime", threads=1)) as upscaler,
        pytest.raises(VideoError, match="changed: model"),
    ):
        make(clip("constant"), output, upscaler)


def test_a_changed_input_is_found_and_restart_begins_anew(clip: Clip, video_upscaler: Upscaler, tmp_path: Path) -> None:
    source, output = tmp_path / "clip.mkv", tmp_path / "large.mkv"
    source.write_bytes(clip("constant").read_bytes())
    with pytest.raises(VideoError, match="stop"):
        make(source, output, video_upscaler, make=stop_after(1, video_upscaler, VideoError("stop")))
    source.write_bytes(clip("variable").read_bytes())
    with pytest.raises(VideoError, match="input"):
        make(source, output, video_upscaler)
    result = make(source, output, video_upscaler, VideoOptions(segment_frames=2, restart=True))
    assert (result.frames, result.resumed) == (14, 0)


def put_link(folder: Path) -> None:
    """The journal's name is a link to a folder with somebody's files."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "run.json").write_text("mine")
    folder.symlink_to(elsewhere)


def put_file_link(folder: Path) -> None:
    """One of the journal's names is a link to somebody's file."""
    folder.mkdir()
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "run.json").write_text("mine")
    (folder / DONE_FILE).symlink_to(folder.parent / "elsewhere" / "run.json")


def put_folder(folder: Path) -> None:
    """Somebody's folder lies in the journal's."""
    (folder / "elsewhere").mkdir(parents=True)
    (folder / "elsewhere" / "run.json").write_text("mine")


def put_file(folder: Path) -> None:
    """Somebody's file has the journal's name."""
    folder.write_text("mine")


@pytest.mark.parametrize(
    ("put", "told"),
    [
        (put_link, "is no folder of its own"),
        (put_file_link, f"holds {DONE_FILE}"),
        (put_folder, "holds elsewhere"),
        (put_file, "is no folder of its own"),
    ],
)
def test_what_is_not_the_journals_is_refused_by_name_and_never_followed_or_deleted(
    clip: Clip, video_upscaler: Upscaler, tmp_path: Path, put: Callable[[Path], None], told: str
) -> None:
    output = tmp_path / "large.mkv"
    put(journal_folder(output))
    with pytest.raises(VideoError, match=rf"{told}.* --restart"):
        make(clip("one_frame"), output, video_upscaler)
    assert make(clip("one_frame"), output, video_upscaler, replace(SHORT, restart=True)).frames == 1
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path != output]
    assert {path.read_text() for path in kept} == {"mine"}
    assert not os.path.lexists(journal_folder(output))


@pytest.mark.parametrize("name", ["run.json", DONE_FILE])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"number": "x", "sha256": "", "frames": 1, "damaged": []}', "7", '{"number": 1.5}']
)
def test_a_journal_that_is_damaged_is_begun_anew(
    clip: Clip, whole: bytes, video_upscaler: Upscaler, tmp_path: Path, name: str, text: str
) -> None:
    output = tmp_path / "large.mkv"
    with pytest.raises(VideoError, match="stop"):
        make(clip("everything"), output, video_upscaler, make=stop_after(1, video_upscaler, VideoError("stop")))
    with (journal_folder(output) / name).open("w" if name == "run.json" else "a") as file:
        file.write(text + "\n")
    make(clip("everything"), output, video_upscaler, replace(SHORT, restart=name == "run.json" and text[0] == "{"))
    assert output.read_bytes() == whole


def test_a_file_that_comes_into_the_journals_folder_meanwhile_is_not_deleted(
    clip: Clip, video_upscaler: Upscaler, tmp_path: Path
) -> None:
    output = tmp_path / "large.mkv"

    def made(tasks: Any, folder: Path, monitor: Any) -> Any:
        (folder / "notes.txt").write_text("mine")
        yield from make_segments(tasks, video_upscaler, folder, monitor.advance)

    make(clip("one_frame"), output, video_upscaler, make=made)
    assert [path.name for path in journal_folder(output).iterdir()] == ["notes.txt"]


def test_two_processes_do_not_make_one_output(clip: Clip, video_upscaler: Upscaler, tmp_path: Path) -> None:
    output = tmp_path / "large.mkv"
    with Journal.open(output, {}), pytest.raises(VideoError, match="another process is making it"):
        make(clip("constant"), output, video_upscaler)


def test_killed_while_tidying_up_it_is_known_to_be_complete(
    clip: Clip, video_upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "large.mkv"

    def killed(_: Journal) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Journal, "remove", killed)
        with pytest.raises(MemoryError):
            make(clip("constant"), output, video_upscaler)
    assert output.exists()
    assert journal_folder(output).exists()
    assert is_complete(output)
    assert not journal_folder(output).exists()
