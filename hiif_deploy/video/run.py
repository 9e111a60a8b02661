"""Upscales one video file: keeps finished segments, computes the rest, then joins all of them."""

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hiif_deploy.bundle.contract import to_json
from hiif_deploy.errors import VideoError
from hiif_deploy.support.files import write_file
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video.journal import COMPLETE_FILE, WHOLE_FILE, Journal, foreign_parts, journal_folder, remove_files
from hiif_deploy.video.monitor import Monitor
from hiif_deploy.video.mux import write_clip
from hiif_deploy.video.plan import VideoPlan
from hiif_deploy.video.pyav import pyav
from hiif_deploy.video.segments import make_segments
from hiif_deploy.video.task import Segment, SegmentTask

logger = logging.getLogger(__name__)
FORMAT = 2
"""Version of the journal and its segments; raised when older ones can no longer be resumed."""
SAMPLE = 1 << 20
"""Bytes at the clip's beginning and end that identify its content."""

MakeSegments = Callable[[Sequence[SegmentTask], Path, Monitor], Iterator[Segment]]
"""(tasks, folder, monitor) → finished segments, in any order, whose files lie in the folder."""


@dataclass(frozen=True)
class VideoResult:
    """Figures and notes of a finished video."""

    frames_in: int
    """Number of requested frames of the clip."""
    frames: int
    """Number of written frames: the requested ones without those that were left out."""
    resumed: int
    """Frames that an earlier run had finished."""
    seconds: float
    """Seconds that this run took for the others."""
    damaged: tuple[int, ...]
    """Numbers of frames that could not be decoded, and were repeated or left out."""
    fallback_blocks: int
    """Frames or blocks of queries that were recomputed in fp32."""
    deviation_db: float | None
    """Worst PSNR of reused statistics against exact ones, where they were compared."""
    resized: int
    """Frames that had another size than the clip's first."""
    notes: tuple[str, ...]
    """Everything that differs from the request or is lost, one sentence each."""


def make_video(
    plan: VideoPlan, upscaler: Upscaler, output: Path, *, restart: bool = False, style: str | None = None,
    make: MakeSegments | None = None,
) -> VideoResult:  # fmt: skip
    """Write `output`, or resume an earlier run; `style` is the monitor's, and `make` computes segments elsewhere.

    Raises VideoError; KeyboardInterrupt reports what is saved. After any interruption the same call resumes.
    """
    pixels = plan.encoding.size[0] * plan.encoding.size[1]
    with _opened(plan, upscaler, output, restart) as journal:
        rest = [task for task in plan.tasks if task.number not in journal.done]
        kept = sum(len(task.times) for task in plan.tasks) - sum(len(task.times) for task in rest)
        if kept:
            logger.info("%s: %d of %d frames are finished already; resuming", output, kept, plan.frames)
        monitor = Monitor(plan.clip.path.name, plan.frames, pixels, done=kept, style=style)
        with _resumable(journal, plan, output), closing(monitor):
            if make is None:
                made: Iterator[Segment] = make_segments(rest, upscaler, journal.folder, monitor.advance, monitor.fill)
            else:
                made = make(rest, journal.folder, monitor)
            for segment in made if rest else ():
                journal.add(segment)
            seconds = monitor.progress().seconds
            _finish(plan, journal, output)
        segments = [journal.done[task.number] for task in plan.tasks]
        journal.remove()
    deviations = [segment.deviation_db for segment in segments if segment.deviation_db is not None]
    return VideoResult(
        plan.frames, sum(segment.frames for segment in segments), kept, seconds,
        tuple(number for segment in segments for number in segment.damaged),
        sum(segment.fallback_blocks for segment in segments), min(deviations, default=None),
        sum(segment.resized for segment in segments), plan.notes,
    )  # fmt: skip


def is_complete(output: Path) -> bool:
    """Return whether `output` was written by a run that was killed while cleaning up; then the cleanup is finished."""
    folder = journal_folder(output)
    if foreign_parts(folder):
        return False
    try:
        noted = json.loads((folder / COMPLETE_FILE).read_bytes())["inode"]
        if output.stat().st_ino != noted:
            return False
        remove_files(folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return True


def identity(plan: VideoPlan, upscaler: Upscaler) -> dict[str, Any]:
    """Return everything that the result depends on, as JSON: unfinished work is resumed only if none of it changed."""
    # Hash the whole contract: normalisation, bits and passes change the pixels as the graphs do.
    contract = json.dumps(to_json(upscaler.contract), sort_keys=True)
    tasks = "".join(repr((task.first, task.times)) for task in plan.tasks)
    run = {
        "format": FORMAT,
        "input": _fingerprint(plan.clip.path),
        "frames and segments": _sha256(tasks.encode()),
        "encoding": asdict(plan.encoding),
        "--on-error": plan.tasks[0].on_error,
        "--statistics": [plan.tasks[0].statistics, asdict(upscaler.options)],
        "model": [upscaler.contract.name, _sha256(contract.encode())],
        "engine": upscaler.description,
        "FFmpeg": [pyav().__version__, pyav().ffmpeg_version_info],
    }
    found: dict[str, Any] = json.loads(json.dumps(run))
    return found


def _opened(plan: VideoPlan, upscaler: Upscaler, output: Path, restart: bool) -> Journal:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        return Journal.open(output, identity(plan, upscaler), restart=restart)
    except OSError as error:
        raise VideoError(f"{output}: cannot be written there: {error.strerror or error}") from error


@contextmanager
def _resumable(journal: Journal, plan: VideoPlan, output: Path) -> Iterator[None]:
    """Add to KeyboardInterrupt how to resume, and turn OSError into a VideoError that says so."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as stop:
        done = sum(len(task.times) for task in plan.tasks if task.number in journal.done)
        saved = (
            f"{done} of {plan.frames} frames of {output} are saved in {journal.folder}; "
            "run the same command again to resume"
        )
        if isinstance(stop, KeyboardInterrupt):
            raise type(stop)(f"interrupted: {saved}") from stop
        why = "the disk is full" if stop.errno == errno.ENOSPC else f"{stop.strerror or stop}"
        raise VideoError(f"{why}: {saved}") from stop


def _finish(plan: VideoPlan, journal: Journal, output: Path) -> None:
    """Join the segments in the journal's folder, then move the file to its place."""
    whole = journal.folder / WHOLE_FILE
    segments = [journal.folder / task.file_name for task in plan.tasks]
    write_clip(plan.clip, plan.encoding, segments, plan.time_range, plan.lost, whole, output.suffix.lower())
    with whole.open("rb+") as file:
        os.fsync(file.fileno())
    # A run that is killed after the move is recognised by the inode, which the move keeps.
    write_file(journal.folder / COMPLETE_FILE, json.dumps({"inode": whole.stat().st_ino}).encode())
    whole.replace(output.resolve())


def _fingerprint(path: Path) -> list[Any]:
    """Return size, time and a hash of the beginning and the end: hashing all of a film would take long."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(SAMPLE)
        file.seek(max(0, size - SAMPLE))
        return [size, path.stat().st_mtime_ns, _sha256(head + file.read())]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
