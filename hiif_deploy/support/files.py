"""Writes files and folders atomically, and locks files between processes."""

import contextlib
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hiif_deploy.errors import EngineError

TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""Names of the temporary files of `atomic_write`; `name` is the file that each was to become."""
MAX_NAME = 240
"""Longest file name in bytes to which a temporary file's own parts can be added: file systems allow 255."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, which replaces `path` when the block ends; after an error nothing changes.

    A symbolic link is followed, and an existing file's mode is kept. Raises OSError.

        with atomic_write(path) as file:
            file.write(data)
    """
    target = path.resolve()
    name = target.name if len(os.fsencode(target.name)) <= MAX_NAME else target.name[: MAX_NAME // 4]
    temporary = target.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            # On the disk before the name is: after a crash it must not lead to an empty file.
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file with `atomic_write`. Raises OSError."""
    with atomic_write(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_directory(folder: Path) -> Iterator[Path]:
    """Create a temporary folder beside `folder`, which replaces `folder` when the block ends, or is removed."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    old = temporary.with_name(temporary.name + "-old")
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def is_temporary(name: str) -> bool:
    """Return whether a file name is one that `atomic_write` gives to an unfinished file."""
    return TEMPORARY.fullmatch(name) is not None


def temporary_files(folder: Path) -> dict[Path, str]:
    """Return unfinished files in `folder`, those of killed processes included, and the stem of each one's target."""
    found = ((path, TEMPORARY.fullmatch(path.name)) for path in list_folder(folder))
    return {path: Path(match["name"]).stem for path, match in found if match is not None}


def remove_temporary_files(folder: Path, stem: str | None = None) -> None:
    """Remove the unfinished files of killed processes in `folder`, or only those of one stem. EngineError."""
    remove_files(*(path for path, of in temporary_files(folder).items() if stem in (None, of)))


def remove_files(*paths: Path) -> None:
    """Remove those files that exist. EngineError where one cannot be removed."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise EngineError(f"{path}: cannot be removed ({error.strerror})") from error


def list_folder(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder; empty where it is missing or unreadable."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


@contextlib.contextmanager
def locked(path: Path, message: str = "", *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file. Where another process holds it: log `message`, then wait, or yield False without `wait`.

    The file stays: removing it would let two processes each hold a lock of that name. The system releases the lock of a
    killed process.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)  # Another thread may release it.
    try:
        try:
            # Once without waiting, so that a wait can be logged before it begins.
            lock.acquire(timeout=0)
        except Timeout:
            if message:
                logger.info(message)
            if wait:
                lock.acquire()
    except OSError as error:
        raise EngineError(f"{path}: cannot be locked ({error.strerror}); is the folder writable?") from error
    try:
        yield lock.is_locked
    finally:
        lock.release()
