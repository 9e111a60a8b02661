"""The engines on this machine: found by what they depend on, built once, checked whenever they are read."""

from __future__ import annotations

import errno
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hiif_deploy.engine_store.entry import (
    ENGINE,
    SIDECAR,
    STEM,
    Entry,
    RefusedEngine,
    StoredEngine,
    bundle_word,
    checked_entry,
    corrupt,
    engine_paths,
    file_stem,
    files_of,
    graph_word,
    read_entry,
)
from hiif_deploy.engine_store.identity import EngineEnvironment, EngineIdentity
from hiif_deploy.engine_store.prune import Removal, prune_root
from hiif_deploy.engine_store.sidecar import Sidecar, make_sidecar, plain, read_sidecar, sidecar_bytes
from hiif_deploy.engine_store.timing_cache import CACHE, TimingCache
from hiif_deploy.errors import EngineError
from hiif_deploy.support.cache_dir import (
    ENGINES,
    TIMING,
    check_owner,
    lock_path,
    make_fallback,
    make_folders,
    wanted_root,
)
from hiif_deploy.support.messages import Say, say_on_stderr
from hiif_deploy.support.shared_files import asides, locked, remove_files, write_whole


@dataclass(frozen=True)
class Found:
    """What a store has for one graph."""

    engines: tuple[StoredEngine, ...]
    """Whole and fitting, newest first."""
    refused: tuple[RefusedEngine, ...]
    """Those of the same graph and precision that are not used, and why."""


@dataclass(frozen=True)
class EngineStore:
    """Made by `open`. Any number of processes and threads may use one folder."""

    root: Path
    """The folder that is written to."""
    read_only: Path | None = None
    """The store that was asked for, where it cannot be written: its engines are used, not changed."""

    @classmethod
    def open(cls, root: str | Path | None = None, say: Say = say_on_stderr) -> EngineStore:
        """The store at `root`, else at `$HIIF_DEPLOY_STORE`, else in the user's cache folder; created where absent.

        One that cannot be written gives way to a temporary one of this user, which is said.
        EngineError where there is not even that, or where others can write to the store that is named.
        """
        wanted = wanted_root(root)
        try:
            if wanted is None:
                raise FileNotFoundError(errno.ENOENT, "this user has no home folder")
            make_folders(wanted)
        except OSError as error:
            name = "the store" if wanted is None else f"{wanted}: the store"
            if wanted is not None:
                check_owner(wanted)
            fallback = make_fallback()
            say(f"{name} cannot be written ({error.strerror}); engines are kept in {fallback} instead")
            return cls(fallback, wanted)
        return cls(wanted)

    def path(self, identity: EngineIdentity) -> Path:
        """Where the engine of that identity lies, or would lie."""
        return self.root / ENGINES / (file_stem(identity) + ENGINE)

    def find(
        self,
        environment: EngineEnvironment,
        onnx_sha256: str,
        graph: str,
        precision: str,
        bundle: str | None = None,
    ) -> Found:
        """Engines for that ONNX file that run here, whatever their profiles and flags, and what is refused and why.

        An engine of the same graph and precision that was built from another ONNX file is stale; with `bundle`,
        those of other bundles are left out instead.
        """
        engines: list[StoredEngine] = []
        refused: list[RefusedEngine] = []
        for path in self._paths():
            entry = read_entry(path)
            if entry is None or not _is_of(entry, graph, precision, onnx_sha256, bundle):
                continue
            judged = _judge(entry, environment, onnx_sha256)
            if isinstance(judged, StoredEngine):
                engines.append(judged)
            else:
                refused.append(judged)
        engines.sort(key=lambda engine: (engine.created, engine.path.name), reverse=True)
        return Found(tuple(engines), tuple(refused))

    def get_or_build(
        self,
        identity: EngineIdentity,
        build: Callable[[], tuple[bytes, Mapping[str, Any]]],
        say: Say = say_on_stderr,
    ) -> StoredEngine:
        """The stored engine of exactly that identity, else what `build` gives: the engine's bytes and its report.

        Of several processes that ask for the same identity one builds, the others wait, which is said once. A damaged
        engine is named and built again. A build that fails or is interrupted leaves nothing.
        EngineError where the result cannot be written; errors of `build` go through.
        """
        path = self.path(identity)
        with self._locked(path.stem, say, "is building"):
            if found := self._whole(identity, say):
                return found
            remove_files(*files_of(path), *asides(path.parent).get(path.stem, []))
            began = time.monotonic()
            data, report = build()
            if not data:
                raise EngineError(f"{path.stem}: the builder gave no bytes: expected a serialised engine")
            sidecar = make_sidecar(identity, data, time.monotonic() - began, report)
            _write_engine(path, sidecar, data)
        return StoredEngine(path, sidecar)

    def set_report(self, stored: StoredEngine, report: Mapping[str, Any], say: Say = say_on_stderr) -> StoredEngine:
        """Replace the report of that engine. EngineError where another engine has taken its place meanwhile."""
        changed = replace(stored.sidecar, report=plain(report))
        path = stored.path.with_suffix(SIDECAR)
        with self._locked(path.stem, say, "is writing"):
            try:
                found = read_sidecar(path).sha256
            except FileNotFoundError:
                found = ""
            if found != stored.sidecar.sha256:
                raise EngineError(f"{stored.path}: rebuilt or removed since it was verified; verify again")
            write_whole(path, sidecar_bytes(changed))
        return replace(stored, sidecar=changed)

    def timing_cache(self, environment: EngineEnvironment) -> TimingCache:
        """For builds by that version of the library on that GPU."""
        facts = (environment.library, environment.library_version, environment.gpu, environment.capability)
        # Names of GPUs hold blanks and worse; the hash keeps two apart that look alike without them.
        words = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(facts))[:100]
        stem = f"{words}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"
        return TimingCache(self.root / TIMING / (stem + CACHE), lock_path(self.root, stem))

    def entries(self) -> list[Entry]:
        """Everything in the store by name, each file read and checked in full."""
        found = (checked_entry(path) for path in self._paths())
        return [entry for entry in found if entry is not None]

    def remove(self, entry: Entry, say: Say = say_on_stderr) -> int:
        """Remove an engine and its sidecar, once no other process writes it; bytes freed."""
        with self._locked(entry.path.stem, say, "is writing"):
            return remove_files(*files_of(entry.path))

    def prune(
        self,
        environment: EngineEnvironment | None = None,
        *,
        everything: bool = False,
        dry_run: bool = False,
        say: Say = say_on_stderr,
    ) -> list[Removal]:
        """Remove what is damaged or half-written; with `environment` also engines that do not run there.

        `everything` removes all engines and timing caches. What a process is writing now is left alone, which is
        said. A dry run removes nothing.
        """
        return prune_root(self.root, environment, everything=everything, dry_run=dry_run, say=say)

    def _whole(self, identity: EngineIdentity, say: Say) -> StoredEngine | None:
        for root in self._roots():
            entry = checked_entry(root / ENGINES / self.path(identity).name)
            if isinstance(entry, StoredEngine) and entry.identity.key == identity.key:
                return entry
            if isinstance(entry, RefusedEngine):
                say(f"{entry.path}: {entry.reason}; it is built again")
        return None

    def _roots(self) -> list[Path]:
        return [self.root] if self.read_only is None else [self.root, self.read_only]

    def _paths(self) -> list[Path]:
        return [path for root in self._roots() for path in engine_paths(root)]

    def _locked(self, stem: str, say: Say, doing: str) -> AbstractContextManager[None]:
        return locked(lock_path(self.root, stem), lambda: say(f"{stem}: another process {doing} it; waiting for that"))


def _is_of(entry: Entry, graph: str, precision: str, onnx_sha256: str, bundle: str | None) -> bool:
    """Whether the caller may have meant it. Where the sidecar is unreadable, the file's name tells."""
    if entry.identity is None:
        name = STEM.fullmatch(entry.path.stem)
        is_graph = name is not None and (name["graph"], name["precision"]) == (graph_word(graph), precision)
        return is_graph and (bundle is None or entry.path.name.startswith(f"{bundle_word(bundle)}-"))
    if (entry.identity.graph, entry.identity.precision) != (graph, precision):
        return False
    return bundle is None or bundle == entry.identity.bundle or onnx_sha256 == entry.identity.onnx_sha256


def _judge(entry: Entry, environment: EngineEnvironment, onnx_sha256: str) -> Entry:
    """The engine, or why it is refused: cheap reasons first."""
    if isinstance(entry, RefusedEngine):
        return entry
    identity = entry.identity
    if identity.onnx_sha256 != onnx_sha256:
        reason = f"built from another ONNX file ({identity.onnx_sha256[:12]}…; this one is {onnx_sha256[:12]}…)"
        return RefusedEngine(entry.path, "stale", reason, identity)
    if misfit := environment.misfit(identity):
        return RefusedEngine(entry.path, "foreign", misfit, identity)
    if problem := entry.damage():
        return corrupt(entry.path, problem, identity)
    return entry


def _write_engine(path: Path, sidecar: Sidecar, data: bytes) -> None:
    """The engine first: a sidecar's presence means a whole engine."""
    text = sidecar_bytes(sidecar)
    try:
        write_whole(path, data)
        write_whole(path.with_suffix(SIDECAR), text)
    except BaseException:
        remove_files(*files_of(path))
        raise
