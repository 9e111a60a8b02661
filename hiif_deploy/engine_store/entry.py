"""One stored engine: a file whose name tells what it is, its sidecar, and whether both are whole."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from hiif_deploy.engine_store.identity import EngineIdentity
from hiif_deploy.engine_store.sidecar import Sidecar, read_sidecar
from hiif_deploy.errors import EngineError
from hiif_deploy.support.cache_dir import ENGINES
from hiif_deploy.support.shared_files import list_folder

ENGINE, SIDECAR = ".engine", ".json"
MOST_NAME = 60
"""Characters of a bundle's or graph's name that stand in a file name."""
STEM = re.compile(r"(?P<bundle>[\w.-]+)-(?P<graph>[\w.]+)-(?P<precision>fp32|fp16)-(?P<key>[0-9a-f]{16})", re.ASCII)
"""Names of other form are none of the store's business."""


@dataclass(frozen=True)
class StoredEngine:
    """An engine whose sidecar is sound and whose size is right. Its bytes are hashed when they are asked for."""

    path: Path
    """The engine file."""
    sidecar: Sidecar
    """What is known of it."""

    @property
    def identity(self) -> EngineIdentity:
        """What it depends on."""
        return self.sidecar.identity

    @property
    def created(self) -> datetime:
        """When it was written."""
        return datetime.fromisoformat(self.sidecar.created)

    def load(self) -> bytes:
        """Its bytes, which have the promised hash. EngineError otherwise."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise EngineError(f"{self.path}: cannot be read ({error.strerror})") from error
        if problem := self._problem(len(data), hashlib.sha256(data).hexdigest()):
            raise EngineError(f"{self.path}: {problem}; it is not run: build it again")
        return data

    def damage(self) -> str | None:
        """What is wrong with its bytes, after reading all of them; None where they are as they were written."""
        try:
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                return self._problem(file.tell(), found)
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    def _problem(self, size: int, sha256: str) -> str | None:
        if size != self.sidecar.size:
            return f"{size:,} bytes instead of {self.sidecar.size:,}: truncated or changed"
        if sha256 != self.sidecar.sha256:
            return f"sha256 is {sha256[:12]}… instead of {self.sidecar.sha256[:12]}…: the file was changed"
        return None


@dataclass(frozen=True)
class RefusedEngine:
    """What lies in the store and is not used."""

    path: Path
    """The engine file, which may be absent."""
    state: Literal["corrupt", "stale", "foreign"]
    """Damaged; built from another ONNX file; built for another library or machine."""
    reason: str
    """In words."""
    identity: EngineIdentity | None
    """What it depends on, where that could be read."""


Entry = StoredEngine | RefusedEngine


def file_stem(identity: EngineIdentity) -> str:
    """File name without ending. The names in it are for people and come from anywhere; the key makes it unique."""
    words = (bundle_word(identity.bundle), graph_word(identity.graph), identity.precision, identity.key[:16])
    return "-".join(words)


def bundle_word(bundle: str) -> str:
    """What stands for a bundle's name in file names."""
    return _safe(bundle) or "bundle"


def graph_word(graph: str) -> str:
    """Likewise for a graph's; free of the hyphen that separates the words."""
    return _safe(graph).replace("-", "_") or "graph"


def files_of(path: Path) -> tuple[Path, Path]:
    """Sidecar and engine file, in the order of removal: an engine without a sidecar is never taken for a whole one."""
    return path.with_suffix(SIDECAR), path


def engine_paths(root: Path) -> list[Path]:
    """Engine files of a store by name; also those of which only the sidecar is there."""
    files = list_folder(root / ENGINES)
    ours = (path for path in files if path.suffix in (ENGINE, SIDECAR) and STEM.fullmatch(path.stem))
    return sorted({path.with_suffix(ENGINE) for path in ours})


def read_entry(path: Path) -> Entry | None:
    """What lies at an engine file's path, its bytes unread (`checked_entry` reads them); None where nothing does."""
    try:
        sidecar = read_sidecar(path.with_suffix(SIDECAR))
    except FileNotFoundError:
        reason = "an engine without a sidecar: writing it was cut off"
        return corrupt(path, reason) if path.exists() else None
    except EngineError as error:
        return corrupt(path, str(error))
    if file_stem(sidecar.identity) != path.stem:
        expected = file_stem(sidecar.identity)
        return corrupt(path, f"the sidecar is that of {expected}: a file was renamed or copied", sidecar.identity)
    if not path.is_file():
        return corrupt(path, "a sidecar without an engine", sidecar.identity)
    return StoredEngine(path, sidecar)


def checked_entry(path: Path) -> Entry | None:
    """What lies at an engine file's path, all of its bytes checked; None where nothing does."""
    entry = read_entry(path)
    if isinstance(entry, StoredEngine) and (problem := entry.damage()):
        return corrupt(path, problem, entry.identity)
    return entry


def corrupt(path: Path, reason: str, identity: EngineIdentity | None = None) -> RefusedEngine:
    """A damaged one."""
    return RefusedEngine(path, "corrupt", reason, identity)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:MOST_NAME].strip("._-")
