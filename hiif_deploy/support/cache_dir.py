"""The cache folder of everything that was built and measured on this machine: engines and tunings."""

import errno
import hashlib
import json
import logging
import os
import stat
import sys
import tempfile
from pathlib import Path

from hiif_deploy.errors import EngineError
from hiif_deploy.support.files import write_file

VARIABLE = "HIIF_DEPLOY_STORE"
"""Environment variable that sets the store's folder."""
NAME = "hiif-deploy"
ENGINES, LOCKS = "engines", "locks"
"""Names of the folders within a store."""

logger = logging.getLogger(__name__)


def wanted_root(root: str | Path | None = None) -> Path | None:
    """Return the store's folder, absolute: `root`, else `$HIIF_DEPLOY_STORE`, else below the user's cache folder.

    None where that would be below a home folder and this user has none, as some services.
    """
    try:
        if chosen := root or os.environ.get(VARIABLE):
            return Path(chosen).expanduser().absolute()
        return user_folder("XDG_CACHE_HOME", ".cache") / NAME
    except RuntimeError:
        return None


def fallback_root() -> Path:
    """Return this user's folder below the system's temporary folder."""
    # Elsewhere than on POSIX systems the temporary folder belongs to one user.
    suffix = f"-{os.getuid()}" if sys.platform != "win32" else ""
    return Path(tempfile.gettempdir()) / f"{NAME}{suffix}"


def make_root(root: str | Path | None = None) -> tuple[Path, Path | None]:
    """Create the store; return the folder to write to, and the wanted one where that is read-only (logged), else None.

    EngineError where no folder is writable, or where others can write to it: engines are code.
    """
    wanted = wanted_root(root)
    try:
        if wanted is None:
            raise FileNotFoundError(errno.ENOENT, "this user has no home folder")
        _make_folders(wanted)
    except OSError as error:
        if wanted is not None:
            _check_owner(wanted)
        fallback, name = _make_fallback(), "" if wanted is None else f"{wanted}: "
        logger.warning(
            "%sthe store cannot be written (%s); engines are kept in %s instead", name, error.strerror, fallback
        )
        return fallback, wanted
    return wanted, None


def code_folder(name: str) -> Path | None:
    """Return the folder of that name for code that was compiled here; None where none can be written, or others can
    write to it."""
    root = wanted_root()
    try:
        if root is None:
            return None
        (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(root, name)
    except (OSError, EngineError) as error:
        logger.info("compiled code is not kept: %s", error)
        return None
    return root / name


def measured_path(folder: str, metadata: object) -> Path | None:
    """Return the file of measurements under `metadata` (JSON values); None where this user has no cache folder."""
    root = wanted_root()
    key = hashlib.sha256(json.dumps(metadata).encode()).hexdigest()
    return root / folder / f"{key[:32]}.json" if root else None


def keep_measured(path: Path | None, content: object) -> Path:
    """Write `content` as JSON and return its path. EngineError where it cannot be written."""
    if path is None:
        raise EngineError(f"this user has no folder for caches; name one with {VARIABLE}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise EngineError(f"{path}: cannot be written ({error.strerror}); see {VARIABLE}") from error
    return path


def _make_fallback() -> Path:
    root, advice = fallback_root(), f"name a folder that can be written, with --store DIR or {VARIABLE}"
    # Anyone can first create a link of a known name in the temporary folder.
    if root.is_symlink():
        raise EngineError(f"{root}: is a link, so others can write there; {advice}")
    try:
        _make_folders(root)
    except OSError as error:
        raise EngineError(f"{root}: cannot be written either ({error.strerror}); {advice}") from error
    return root


def _make_folders(root: Path) -> None:
    """Create the folders of a store and try to write there. OSError; EngineError where others can write."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(root)
    for name in (ENGINES, LOCKS):
        (root / name).mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=root / name):
            pass


def _check_owner(root: Path, name: str = ENGINES) -> None:
    """Raise EngineError where anyone but this user and the administrator can put code into that folder of the store."""
    folders = [path for path in (root, root / name) if path.is_dir()]
    if sys.platform == "win32" or not folders:
        return
    # Where others cannot enter the store, what its folders allow does not matter (a umask of 002 opens them).
    if root.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH) == 0:
        folders = folders[:1]
    for folder in folders:
        status = folder.stat()
        if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EngineError(
                f"{folder}: others can write there, so engines from it cannot be trusted; make it yours alone "
                f"(chmod go-w, chown), or name another folder with --store DIR or {VARIABLE}"
            )


def user_folder(variable: str, *default: str) -> Path:
    """Return the XDG folder that `variable` names, or `default` below the home folder. RuntimeError without a home.

    On Windows it is the folder of local application data, for every kind of file.
    """
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    # A relative path there is to be ignored, by its specification.
    folder = Path(os.environ.get(variable) or "")
    return folder if folder.is_absolute() else Path.home().joinpath(*default)
