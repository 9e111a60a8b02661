"""Records the finished segments of a video, so that the same command resumes after any interruption.

A folder beside the output: `run.json` describes the run, `done.jsonl` gains a line for each finished segment, and the
segments lie beside them. A line is written after its file is complete and on the disk.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from hiif_deploy.errors import OptionError, VideoError
from hiif_deploy.support.files import is_temporary, remove_temporary_files, write_file
from hiif_deploy.video.task import Segment

RUN_FILE, DONE_FILE, LOCK_FILE = "run.json", "done.jsonl", "lock"
WHOLE_FILE, COMPLETE_FILE = "whole", "complete.json"
"""File that becomes the output, and note that it has become it."""
OWN_FILES = (RUN_FILE, DONE_FILE, WHOLE_FILE, LOCK_FILE, COMPLETE_FILE)
SEGMENT_FILE = re.compile(r"\d{6,}\.segment")


class Journal:
    """An open journal; a context manager that admits one process only."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder = folder
        self.done: dict[int, Segment] = {}
        """Segments that are complete on the disk, by number."""
        self._lock = lock

    @classmethod
    def open(cls, output: Path, run: dict[str, Any], *, restart: bool = False) -> Self:
        """Open the journal of `output`, new or to be resumed. `run` is everything that the result depends on, as JSON.

        VideoError where another process uses it, or, without `restart`, where it belongs to another run or the folder
        holds foreign files. Links are never followed. `restart` deletes a journal's files only: a folder that holds
        anything else is renamed.
        """
        folder = journal_folder(output)
        if foreign := foreign_parts(folder):
            if not restart:
                raise VideoError(_refused(output, folder, foreign))
            _set_aside(output, folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(output, folder)
        journal = cls(folder, lock)
        try:
            journal._begin(output, run, restart)
        except BaseException:
            lock.release()
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def add(self, segment: Segment) -> None:
        """Record durably that the segment's file is complete in the folder."""
        with (self.folder / DONE_FILE).open("ab") as file:
            file.write(json.dumps(asdict(segment)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[segment.number] = segment

    def remove(self) -> None:
        """Delete the journal once the output exists."""
        self._lock.release()
        remove_files(self.folder)

    def _begin(self, output: Path, run: dict[str, Any], restart: bool) -> None:
        path = self.folder / RUN_FILE
        found = _read_run(path)
        if found is not None and found != run and not restart:
            raise VideoError(
                f"{output}: {self.folder} holds unfinished work of another run ({_difference(found, run)}); run "
                "that command again to resume it, or add --restart to discard it"
            )
        if found != run:
            for old in self.folder.iterdir():
                if old.name != LOCK_FILE:
                    old.unlink()
            write_file(path, json.dumps(run, indent=1).encode())
        remove_temporary_files(self.folder)
        self.done = {segment.number: segment for segment in self._whole_segments()}

    def _whole_segments(self) -> list[Segment]:
        """Return the intact segments; the last line may be torn, and a file may be missing or damaged."""
        try:
            lines = (self.folder / DONE_FILE).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        segments = [_read_segment(line) for line in lines]
        return [s for s in segments if s is not None and _sha256(self.folder / f"{s.number:06d}.segment") == s.sha256]


def journal_folder(output: Path) -> Path:
    """Return the hidden folder beside the output that is named after it."""
    target = output.resolve()
    return target.with_name(f".{target.name}.unfinished")


def foreign_parts(folder: Path) -> list[str]:
    """Return names in the folder that no journal writes, or `.` where the folder itself is a link or a file."""
    if not os.path.lexists(folder):
        return []
    if folder.is_symlink() or not folder.is_dir():
        return ["."]
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not (e.is_file(follow_symlinks=False) and _is_own(e.name)))


def remove_files(folder: Path) -> None:
    """Delete the files of a journal, the completion note last, and the folder if it is empty then."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == COMPLETE_FILE):
        if _is_own(path.name) and not path.is_dir():
            path.unlink()
    # Files that others added meanwhile are not deleted.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _is_own(name: str) -> bool:
    return name in OWN_FILES or is_temporary(name) or SEGMENT_FILE.fullmatch(name) is not None


def _refused(output: Path, folder: Path, foreign: list[str]) -> str:
    names = "is no folder of its own" if foreign == ["."] else "holds " + ", ".join(foreign[:5])
    return (
        f"{output}: {folder}, where unfinished work is kept, {names}; move that away to resume, or add --restart, "
        "which renames it and starts again"
    )


def _set_aside(output: Path, folder: Path) -> None:
    """Rename whatever has the journal's name, a link itself and not its target. VideoError where it is in use."""
    lock = folder / LOCK_FILE
    if not folder.is_symlink() and lock.is_file() and not lock.is_symlink():
        _locked(output, folder).release()
    number = next(n for n in itertools.count(1) if not os.path.lexists(_numbered(folder, n)))
    folder.rename(_numbered(folder, number))


def _numbered(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}.{number}")


def _locked(output: Path, folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise VideoError(f"{output}: another process is making it; wait for it, or choose another output") from error
    return lock


def _read_run(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read_segment(line: bytes) -> Segment | None:
    try:
        values = json.loads(line)
        return Segment(**{**values, "damaged": tuple(values["damaged"])})
    except (ValueError, TypeError, KeyError, RecursionError, OptionError):
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
