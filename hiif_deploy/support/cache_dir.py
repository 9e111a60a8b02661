"""Where engines are stored: what the user says, else the system's folder for caches, else a temporary one."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from hiif_deploy.errors import EngineError

VARIABLE = "HIIF_DEPLOY_STORE"
"""Environment variable that names the store."""
NAME = "hiif-deploy"
ENGINES, TIMING, LOCKS = "engines", "timing", "locks"
"""Folders of a store."""


def wanted_root(root: str | Path | None = None) -> Path | None:
    """The store's folder, absolute: `root`, else `$HIIF_DEPLOY_STORE`, else below the user's cache folder.

    None where that is below a home folder and this user has none, as some services.
    """
    try:
        if chosen := root or os.environ.get(VARIABLE):
            return Path(chosen).expanduser().absolute()
        return _cache_folder() / NAME
    except RuntimeError:
        return None


def fallback_root() -> Path:
    """The folder of this user among the temporary ones."""
    # Elsewhere than on POSIX systems the temporary folder belongs to one user.
    suffix = f"-{os.getuid()}" if sys.platform != "win32" else ""
    return Path(tempfile.gettempdir()) / f"{NAME}{suffix}"


def lock_path(root: Path, stem: str) -> Path:
    """The lock file of everything in a store whose names begin with `stem`."""
    return root / LOCKS / f"{stem}.lock"


def make_folders(root: Path) -> None:
    """Create what a store consists of and try to write there; OSError where that fails.

    EngineError where others can write there.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_owner(root)
    for name in (ENGINES, TIMING, LOCKS):
        (root / name).mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=root / name):
            pass


def check_owner(root: Path) -> None:
    """EngineError where anyone but this user and the administrator can put engines into the store: they are code."""
    folders = [path for path in (root, root / ENGINES, root / TIMING) if path.is_dir()]
    if sys.platform == "win32" or not folders:
        return
    # Where others cannot enter the store, what its folders allow does not matter (a umask of 002 opens them).
    if root.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH) == 0:
        folders = folders[:1]
    for folder in folders:
        facts = folder.stat()
        if facts.st_uid not in (os.getuid(), 0) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EngineError(
                f"{folder}: others can write there, so engines from it cannot be trusted; make it yours alone "
                f"(chmod go-w, chown), or name another folder with --store DIR or {VARIABLE}"
            )


def make_fallback() -> Path:
    """Create the temporary store. EngineError where it cannot be written or is not this user's alone."""
    root = fallback_root()
    advice = f"name a folder that can be written, with --store DIR or {VARIABLE}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        if not _is_own(root):
            raise EngineError(f"{root}: others can write there, so engines from it cannot be trusted; {advice}")
        make_folders(root)
    except OSError as error:
        raise EngineError(f"{root}: cannot be written either ({error.strerror}); {advice}") from error
    return root


def _is_own(folder: Path) -> bool:
    """Anyone can create a folder or a link of a known name among the temporary ones first, and an engine is code."""
    facts = folder.lstat()
    if sys.platform == "win32":
        return stat.S_ISDIR(facts.st_mode)
    is_private = facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(facts.st_mode) and is_private


def _cache_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    # A relative path there is to be ignored, by its specification.
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return folder if folder.is_absolute() else Path.home() / ".cache"
