"""What is already done of a video, so that the same command goes on after any end.

A folder beside the output: `run.json` says what is being made, `done.jsonl` gains a line for each finished segment,
and the segments lie beside them. A line is written after its file is whole and on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from hiif_deploy.errors import VideoError
from hiif_deploy.files import remove_leftovers, write_aside
from hiif_deploy.video.task import Segment, SegmentTask

RUN_FILE = "run.json"
DONE_FILE = "done.jsonl"


class Journal:
    """An opened journal; a context manager that lets only one process work on it."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder = folder
        self.done: dict[int, Segment] = {}
        """Segments that are whole on the disk, by number."""
        self._lock = lock

    @classmethod
    def open(cls, output: Path, run: dict[str, Any], *, restart: bool = False) -> Self:
        """The journal of `output`, new or to be continued. `run` is everything that the result depends on, as JSON.

        VideoError where another process works on it, or where the journal belongs to another run and not `restart`.
        """
        folder = journal_folder(output)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise VideoError(
                f"{output}: another process is making it; wait for it, or choose another output"
            ) from error
        journal = cls(folder, lock)
        try:
            journal._begin(output, run, restart)
        except BaseException:
            lock.release()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def path(self, task: SegmentTask) -> Path:
        """Where the segment of a task lies, or will."""
        return self.folder / task.file_name

    def add(self, segment: Segment) -> None:
        """The segment's file is whole in the folder: say so, durably."""
        with (self.folder / DONE_FILE).open("ab") as file:
            file.write(json.dumps(asdict(segment)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[segment.number] = segment

    def remove(self) -> None:
        """The output is there: nothing is left to resume."""
        self._lock.release()
        shutil.rmtree(self.folder)

    def _begin(self, output: Path, run: dict[str, Any], restart: bool) -> None:
        path = self.folder / RUN_FILE
        found = _read_run(path)
        if found is not None and found != run and not restart:
            raise VideoError(
                f"{output}: {self.folder} holds unfinished work of another run ({_difference(found, run)}); give the "
                "same command to go on with that, or --restart to throw it away"
            )
        if found != run:
            for old in self.folder.iterdir():
                if old.name != "lock":
                    old.unlink()
            write_aside(path, lambda file: file.write(json.dumps(run, indent=1).encode()))
        remove_leftovers(self.folder)
        self.done = {segment.number: segment for segment in self._whole_segments()}

    def _whole_segments(self) -> list[Segment]:
        """The last line may be torn, and a file may be gone or damaged: such segments are made again."""
        try:
            lines = (self.folder / DONE_FILE).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        segments = [_read_segment(line) for line in lines]
        return [s for s in segments if s is not None and _sha256(self.folder / f"{s.number:06d}.segment") == s.sha256]


def journal_folder(output: Path) -> Path:
    """Beside the output, hidden, named after it."""
    target = output.resolve()
    return target.with_name(f".{target.name}.unfinished")


def _read_run(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _read_segment(line: bytes) -> Segment | None:
    try:
        values = json.loads(line)
        return Segment(**{**values, "damaged": tuple(values["damaged"])})
    except (ValueError, TypeError, KeyError):
        return None


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return "changed: " + ", ".join(names)
