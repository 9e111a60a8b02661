"""Taking out of a store what is of no use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hiif_deploy.engine_store.entry import ENGINE, STEM, Entry, RefusedEngine, checked_entry, engine_paths, files_of
from hiif_deploy.engine_store.identity import EngineEnvironment
from hiif_deploy.engine_store.timing_cache import CACHE, HASH
from hiif_deploy.support.cache_dir import ENGINES, TIMING, lock_path
from hiif_deploy.support.messages import Say
from hiif_deploy.support.shared_files import asides, list_folder, locked_if_free, remove_files


@dataclass(frozen=True)
class Removal:
    """One thing that pruning took away, or would take away."""

    path: Path
    """The engine, timing cache or half-written file."""
    reason: str
    """In words."""
    size: int
    """Bytes freed."""


@dataclass(frozen=True)
class _Candidate:
    path: Path
    files: tuple[Path, ...]
    reason: str


def prune_root(
    root: Path, environment: EngineEnvironment | None, *, everything: bool, dry_run: bool, say: Say
) -> list[Removal]:
    """See `EngineStore.prune`."""
    removals = []
    for stem in _stems(root):
        with locked_if_free(lock_path(root, stem)) as is_free:
            if not is_free:
                say(f"{stem}: another process is writing it now; left alone")
                continue
            for found in _candidates(root, stem, environment, everything):
                size = sum(file.lstat().st_size for file in found.files if file.exists())
                removals.append(Removal(found.path, found.reason, size if dry_run else remove_files(*found.files)))
    return removals


def _stems(root: Path) -> list[str]:
    """Names of all that lies there, each with a lock of its own."""
    caches = {path.stem for path in list_folder(root / TIMING) if path.suffix in (CACHE, HASH)}
    engines = {path.stem for path in engine_paths(root)}
    return sorted(engines | caches | asides(root / ENGINES).keys() | asides(root / TIMING).keys())


def _candidates(root: Path, stem: str, environment: EngineEnvironment | None, everything: bool) -> Iterator[_Candidate]:
    for folder in (root / ENGINES, root / TIMING):
        # Their writer would hold the lock that we hold.
        for path in asides(folder).get(stem, []):
            yield _Candidate(path, (path,), "half-written by a process that is gone")
    path = root / ENGINES / (stem + ENGINE)
    entry = checked_entry(path) if STEM.fullmatch(stem) else None
    if entry is not None and (reason := _reason(entry, environment, everything)):
        yield _Candidate(path, files_of(path), reason)
    cache = root / TIMING / (stem + CACHE)
    if everything:
        files = tuple(file for file in (cache, cache.with_suffix(HASH)) if file.exists())
        yield from [_Candidate(cache, files, "everything is to go")] if files else []


def _reason(entry: Entry, environment: EngineEnvironment | None, everything: bool) -> str | None:
    if isinstance(entry, RefusedEngine):
        return entry.reason
    if everything:
        return "everything is to go"
    return environment.misfit(entry.identity) if environment is not None else None
