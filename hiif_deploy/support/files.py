"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_ASIDE = re.compile(r"\.[0-9a-f]{16}(\.\w+)?")
"""Names of unfinished files."""


def write_aside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it; a symbolic link is followed, an old file's mode kept.

    On any failure what was there before is untouched and nothing else is left. Raises OSError, and what `write` raises.
    """
    target = path.resolve()
    aside = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        with aside.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, aside)
        aside.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place if all goes well, and is removed otherwise."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    old = aside.with_name(aside.name + "-old")
    try:
        yield aside
        aside.chmod(0o755)
        if folder.exists():
            folder.replace(old)
        aside.replace(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def is_aside(name: str) -> bool:
    """Whether a file name is one that `write_aside` gives to what is not finished."""
    return _ASIDE.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Delete what `write_aside` could not rename because its process was killed."""
    for path in folder.glob(".*"):
        if is_aside(path.name):
            path.unlink(missing_ok=True)
