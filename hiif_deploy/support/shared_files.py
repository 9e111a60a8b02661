"""Files that several processes use at once: written whole or not at all, by one writer at a time."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hiif_deploy.errors import EngineError

ASIDE = re.compile(r"\.(?P<stem>.+)\.\w+\.[0-9a-f]{8}\.aside")
"""Name of a file that is being written; `stem` is that of the file that it becomes."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(path: Path, data: bytes) -> None:
    """Write aside in the same folder, then rename. EngineError where it cannot be written; then nothing is left."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.aside")
    try:
        with aside.open("xb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise _write_error(path, len(data), error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def remove_files(*paths: Path) -> int:
    """Remove those that are there; bytes freed. EngineError where one cannot be removed."""
    freed = 0
    for path in paths:
        try:
            size = path.lstat().st_size
            path.unlink()
            freed += size
        except FileNotFoundError:
            continue
        except OSError as error:
            raise EngineError(f"{path}: cannot be removed ({error.strerror})") from error
    return freed


def asides(folder: Path) -> dict[str, list[Path]]:
    """Files that are being written in a folder, or that a killed process left: by stem, which is that of their lock."""
    found: dict[str, list[Path]] = {}
    for path in list_folder(folder):
        if match := ASIDE.fullmatch(path.name):
            found.setdefault(match["stem"], []).append(path)
    return found


def list_folder(folder: Path) -> list[Path]:
    """Its entries by name; none where it is absent or cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file; `on_wait` is called once where another holds it. The system frees a killed process's lock.

    The file itself stays: removing it would let two processes each hold a lock of that name.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    except OSError as error:
        raise EngineError(f"{path}: cannot be locked ({error.strerror}); is the folder writable?") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file and give True, or give False at once where another holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise EngineError(f"{path}: cannot be locked ({error.strerror}); is the folder writable?") from error
    try:
        yield True
    finally:
        lock.release()


def _write_error(path: Path, size: int, error: OSError) -> EngineError:
    if error.errno not in NO_ROOM:
        return EngineError(f"{path}: cannot be written ({error.strerror})")
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} bytes are free there"
    except OSError:
        free = "the free room there is unknown"
    return EngineError(
        f"{path}: no room for {size:,} bytes ({error.strerror}; {free}); make room, "
        "for example with hiif-deploy engines prune, or choose another folder with --store"
    )
