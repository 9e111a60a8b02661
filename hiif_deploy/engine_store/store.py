"""The engines on this machine: found by what they depend on, built once, checked whenever they are read."""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from hiif_deploy.engine_store.entry import (
    ENGINE,
    SIDECAR,
    Entry,
    RefusedEngine,
    StoredEngine,
    checked_entry,
    engine_paths,
    file_stem,
    is_of,
    make_sidecar,
    read_entry,
    read_sidecar,
    sidecar_bytes,
)
from hiif_deploy.engine_store.identity import EngineEnvironment, EngineIdentity
from hiif_deploy.errors import EngineError
from hiif_deploy.support.cache_dir import ENGINES, LOCKS, make_root
from hiif_deploy.support.files import (
    is_temporary,
    locked,
    remove_files,
    remove_temporary_files,
    temporary_files,
    write_file,
)

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removal:
    """A file that pruning removed, or would remove."""

    path: Path
    """The engine or half-written file."""
    reason: str
    """As a sentence."""
    size: int
    """Bytes freed."""


@dataclass(frozen=True)
class EngineStore:
    """Made by `open`. Any number of processes and threads may use one folder.

    store = EngineStore.open()
    engine = store.get_or_build(identity, build)
    data = engine.load()
    """

    root: Path
    """The folder to write to."""
    read_only: Path | None = None
    """The wanted store, where it cannot be written: its engines are used, not changed."""

    @classmethod
    def open(cls, root: str | Path | None = None) -> Self:
        """The store at `root`, else at `$HIIF_DEPLOY_STORE`, else in the user's cache folder; created where absent.

        One that cannot be written gives way to a temporary one of this user, which is logged.
        EngineError where there is not even that, or where others can write to the store.
        """
        return cls(*make_root(root))

    def path(self, identity: EngineIdentity) -> Path:
        """Where the engine of that identity lies, or would lie."""
        return self.root / ENGINES / (file_stem(identity) + ENGINE)

    def find(
        self, environment: EngineEnvironment, bundle: str, graph: str, precision: str, onnx_sha256: str
    ) -> list[Entry]:
        """Engines of that graph that run here, whatever their profiles and flags, the newest first; then refused ones.

        An engine belongs to the graph if the ONNX file is the same, whatever the bundle's name. One of the bundle that
        was built from another ONNX file is refused.
        """
        own = (entry for entry in self._entries(read_entry) if is_of(entry, bundle, graph, precision, onnx_sha256))
        checked = [_checked(entry, environment, onnx_sha256) for entry in own]
        engines = [entry for entry in checked if isinstance(entry, StoredEngine)]
        engines.sort(key=lambda engine: (engine.sidecar.created, engine.path.name), reverse=True)
        return [*engines, *(entry for entry in checked if isinstance(entry, RefusedEngine))]

    def get_or_build(
        self, identity: EngineIdentity, build: Callable[[], tuple[bytes, Mapping[str, Any]]]
    ) -> StoredEngine:
        """The stored engine of exactly that identity, else what `build` returns: the engine's bytes and its report.

        Of several processes that need the same identity one builds and the others wait, which is logged. A damaged
        engine is logged and built again. A build that fails or is interrupted leaves nothing.
        EngineError where the result cannot be written; errors of `build` are passed on.
        """
        path = self.path(identity)
        with self._locked(path.stem, "is building"):
            if found := self._whole(identity):
                return found
            remove_files(*_files(path))
            remove_temporary_files(path.parent, path.stem)
            began = time.monotonic()
            data, report = build()
            if not data:
                raise EngineError(f"{path.stem}: the builder gave no bytes: expected a serialised engine")
            engine = StoredEngine(path, make_sidecar(identity, data, time.monotonic() - began, report))
            _write_engine(engine, data)
        return engine

    def set_report(self, engine: StoredEngine, report: Mapping[str, Any]) -> StoredEngine:
        """Replace the report of that engine. EngineError where another engine has taken its place meanwhile."""
        changed = replace(engine.sidecar, report=report)
        path = engine.path.with_suffix(SIDECAR)
        with self._locked(path.stem, "is writing"):
            try:
                found = read_sidecar(path).sha256
            except FileNotFoundError:
                found = ""
            if found != engine.sidecar.sha256:
                raise EngineError(f"{engine.path}: rebuilt or removed since it was verified; verify again")
            _write(path, sidecar_bytes(changed))
        return replace(engine, sidecar=changed)

    def entries(self) -> list[Entry]:
        """Everything in the store by name, each file read and checked in full."""
        return self._entries(checked_entry)

    def remove(self, entry: Entry) -> None:
        """Remove an engine and its sidecar, once no other process writes it."""
        with self._locked(entry.path.stem, "is writing"):
            remove_files(*_files(entry.path))

    def prune(self, *, everything: bool = False, dry_run: bool = False) -> list[Removal]:
        """Remove what is damaged or half-written, or with `everything` all engines.

        What another process is writing is left alone, which is logged. A dry run removes nothing.
        """
        removals = []
        for path, stem in self._own_files().items():
            message = f"{stem}: another process is writing it now; left alone"
            with locked(self._lock(stem), message, wait=False) as is_held:
                files = [file for file in _files(path) if file.exists()]
                if is_held and files and (reason := _removal_reason(path, everything)):
                    removals.append(Removal(path, reason, sum(file.lstat().st_size for file in files)))
                    remove_files(*([] if dry_run else files))
        return removals

    def _own_files(self) -> dict[Path, str]:
        """Half-written files and engines, each with the stem that its lock has."""
        return {**temporary_files(self.root / ENGINES), **{path: path.stem for path in engine_paths(self.root)}}

    def _whole(self, identity: EngineIdentity) -> StoredEngine | None:
        for root in self._roots:
            entry = checked_entry(root / ENGINES / self.path(identity).name)
            if isinstance(entry, StoredEngine) and entry.identity.key == identity.key:
                return entry
            if isinstance(entry, RefusedEngine):
                logger.warning("%s: %s; it is built again", entry.path, entry.reason)
        return None

    @property
    def _roots(self) -> list[Path]:
        return [root for root in (self.root, self.read_only) if root is not None]

    def _entries(self, read: Callable[[Path], Entry | None]) -> list[Entry]:
        found = (read(path) for root in self._roots for path in engine_paths(root))
        return [entry for entry in found if entry is not None]

    def _lock(self, stem: str) -> Path:
        return self.root / LOCKS / f"{stem}.lock"

    def _locked(self, stem: str, doing: str) -> AbstractContextManager[bool]:
        return locked(self._lock(stem), f"{stem}: another process {doing} it; waiting for that")


def _checked(entry: Entry, environment: EngineEnvironment, onnx_sha256: str) -> Entry:
    """The engine, or why it is refused: cheap reasons first."""
    if isinstance(entry, RefusedEngine):
        return entry
    identity = entry.identity
    if identity.onnx_sha256 != onnx_sha256:
        reason = f"built from another ONNX file ({identity.onnx_sha256[:12]}…; this one is {onnx_sha256[:12]}…)"
        return RefusedEngine(entry.path, reason, identity)
    problem = identity.incompatibility(environment) or entry.damage()
    return RefusedEngine(entry.path, problem, identity) if problem else entry


def _removal_reason(path: Path, everything: bool) -> str | None:
    if is_temporary(path.name):
        # A living writer would hold the lock.
        return "half-written by a process that is gone"
    entry = checked_entry(path)
    if isinstance(entry, RefusedEngine):
        return entry.reason
    return "everything is to go" if everything else None


def _files(path: Path) -> tuple[Path, ...]:
    """A file and an engine's sidecar, in the order of removal: without a sidecar an engine is never whole."""
    return (path.with_suffix(SIDECAR), path) if path.suffix == ENGINE else (path,)


def _write_engine(engine: StoredEngine, data: bytes) -> None:
    """The engine first: a sidecar's presence means a whole engine."""
    text = sidecar_bytes(engine.sidecar)
    try:
        _write(engine.path, data)
        _write(engine.path.with_suffix(SIDECAR), text)
    except BaseException:
        remove_files(*_files(engine.path))
        raise


def _write(path: Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise EngineError(f"{path}: cannot be written ({error.strerror})") from error
        raise EngineError(
            f"{path}: no room for {len(data):,} bytes ({error.strerror}; {shutil.disk_usage(path.parent).free:,} bytes "
            "are free there); make room, for example with hiif-deploy engines prune, or choose another folder with "
            "--store"
        ) from error
