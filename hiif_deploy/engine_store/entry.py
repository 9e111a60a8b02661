"""One stored engine: its file, the JSON sidecar beside it, and whether both are whole."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hiif_deploy.bundle.contract import from_json, to_json
from hiif_deploy.engine_store.identity import EngineIdentity, check, check_sha256, json_sha256
from hiif_deploy.errors import EngineError, HiifError
from hiif_deploy.support.cache_dir import ENGINES
from hiif_deploy.support.files import list_folder
from hiif_deploy.support.messages import shortened

ENGINE, SIDECAR = ".engine", ".json"
STEM = re.compile(r"[\w.-]+-[\w.]+-(fp32|fp16)-[0-9a-f]{16}", re.ASCII)
"""Files of other names do not belong to the store."""
MAX_WORD = 60
"""Characters of a bundle's or graph's name in a file name."""
MAX_SIDECAR = 1 << 20
"""Bytes of a sidecar; a larger file is not read."""
CHECKSUM = "checksum"
"""Key of the sha256 over all other keys of a sidecar."""


@dataclass(frozen=True)
class Sidecar:
    """Contents of the JSON file beside an engine. EngineError or ValueError for impossible values."""

    format: Literal["hiif-deploy engine 1"]
    """Another number goes with other folder names, so that older programs never meet it."""
    identity: EngineIdentity
    """What the engine depends on."""
    sha256: str
    """Of the engine file, hexadecimal."""
    size: int
    """Bytes of the engine file."""
    created: str
    """When it was written: ISO 8601 in UTC."""
    build_seconds: float
    """How long building took."""
    report: Mapping[str, Any]
    """Verification figures of exactly this engine, plain JSON values."""

    def __post_init__(self) -> None:
        check_sha256("sha256", self.sha256)
        check("size", self.size, self.size >= 1, "at least one byte")
        check("build seconds", self.build_seconds, 0 <= self.build_seconds < math.inf, "0 or more")
        datetime.fromisoformat(self.created)


@dataclass(frozen=True)
class StoredEngine:
    """An engine whose sidecar is sound. `load` and `damage` read and hash its bytes."""

    path: Path
    """The engine file."""
    sidecar: Sidecar
    """What is known of it."""

    @property
    def identity(self) -> EngineIdentity:
        """Identity that the engine was built for."""
        return self.sidecar.identity

    def load(self) -> bytes:
        """Its bytes. EngineError where they do not have the size and hash of the sidecar."""
        data, damage = self._read()
        if damage:
            raise EngineError(f"{self.path}: {damage}; it is not run: build it again")
        return data

    def damage(self) -> str | None:
        """Damage found by reading all bytes; None where they are as they were written."""
        return self._read()[1]

    def _read(self) -> tuple[bytes, str | None]:
        try:
            data = self.path.read_bytes()
        except OSError as error:
            return b"", f"cannot be read ({error.strerror})"
        size, expected = self.sidecar.size, self.sidecar.sha256
        if len(data) != size:
            return b"", f"{len(data):,} bytes instead of {size:,}: truncated or changed"
        if (found := hashlib.sha256(data).hexdigest()) != expected:
            return b"", f"sha256 is {found[:12]}… instead of {expected[:12]}…: the file was changed"
        return data, None


@dataclass(frozen=True)
class RefusedEngine:
    """An engine in the store that is not used."""

    path: Path
    """The engine file, which may be absent."""
    reason: str
    """As a sentence."""
    identity: EngineIdentity | None = None
    """What it depends on, where that could be read."""


Entry = StoredEngine | RefusedEngine


def make_sidecar(identity: EngineIdentity, data: bytes, build_seconds: float, report: Mapping[str, Any]) -> Sidecar:
    """The sidecar of an engine that was built just now."""
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    sha256, seconds = hashlib.sha256(data).hexdigest(), round(build_seconds, 3)
    return Sidecar("hiif-deploy engine 1", identity, sha256, len(data), created, seconds, report)


def sidecar_bytes(sidecar: Sidecar) -> bytes:
    """The file's contents. EngineError where the report is too large, or holds what JSON cannot."""
    value, graph = to_json(sidecar), sidecar.identity.graph
    try:
        data = json.dumps({**value, CHECKSUM: json_sha256(value)}, indent=1, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise EngineError(f"the report of {graph} holds what JSON cannot: {error}") from error
    check(f"size of the report of {graph}", len(data), len(data) <= MAX_SIDECAR, f"at most {MAX_SIDECAR} bytes")
    return data


def read_sidecar(path: Path) -> Sidecar:
    """Parse and validate. FileNotFoundError where it is absent; EngineError says in one sentence what is wrong."""
    try:
        # Opening a pipe would wait for its other end.
        if path.exists() and not path.is_file():
            raise EngineError(f"{path.name}: not a file")
        with path.open("rb") as file:
            data = file.read(MAX_SIDECAR + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise EngineError(f"{path.name}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_SIDECAR:
        raise EngineError(f"{path.name}: larger than {MAX_SIDECAR} bytes, so it is not about an engine")
    try:
        return _parse(data)
    except (ValueError, RecursionError, HiifError) as error:
        # Control characters in a damaged file must not reach the terminal.
        reason = "".join(c if c.isprintable() else " " for c in str(error)[:300])
        raise EngineError(f"{path.name}: damaged ({reason})") from error


def file_stem(identity: EngineIdentity) -> str:
    """File name without suffix. The names in it are for people and come from anywhere; the key makes it unique."""
    return f"{file_prefix(identity.bundle, identity.graph, identity.precision)}-{identity.key[:16]}"


def file_prefix(bundle: str, graph: str, precision: str) -> str:
    """Prefix of the file names of a graph's engines; a hyphen and the key follow."""
    return f"{_word(bundle) or 'bundle'}-{_word(graph).replace('-', '_') or 'graph'}-{precision}"


def is_of(entry: Entry, bundle: str, graph: str, precision: str, onnx_sha256: str) -> bool:
    """Whether it is of that graph, if only in name. Where the sidecar is unreadable, the file's name decides."""
    if (identity := entry.identity) is None:
        return entry.path.stem[: -len("-0123456789abcdef")] == file_prefix(bundle, graph, precision)
    is_graph = (identity.graph, identity.precision) == (graph, precision)
    return is_graph and (identity.bundle == bundle or identity.onnx_sha256 == onnx_sha256)


def engine_paths(root: Path) -> list[Path]:
    """Engine files of a store by name, including those of which only the sidecar exists."""
    files = list_folder(root / ENGINES)
    own = (path for path in files if path.suffix in (ENGINE, SIDECAR) and STEM.fullmatch(path.stem))
    return sorted({path.with_suffix(ENGINE) for path in own})


def read_entry(path: Path) -> Entry | None:
    """The entry of an engine file, its bytes unread (`checked_entry` reads them); None where there is none."""
    try:
        sidecar = read_sidecar(path.with_suffix(SIDECAR))
    except FileNotFoundError:
        reason = "an engine without a sidecar: writing it was cut off"
        return RefusedEngine(path, reason) if path.exists() else None
    except EngineError as error:
        return RefusedEngine(path, str(error))
    if (stem := file_stem(sidecar.identity)) != path.stem:
        reason = f"the sidecar is that of {stem}: a file was renamed or copied"
        return RefusedEngine(path, reason, sidecar.identity)
    if not path.is_file():
        return RefusedEngine(path, "a sidecar without an engine", sidecar.identity)
    return StoredEngine(path, sidecar)


def checked_entry(path: Path) -> Entry | None:
    """The entry of an engine file, all of its bytes checked; None where there is none."""
    entry = read_entry(path)
    if isinstance(entry, StoredEngine) and (problem := entry.damage()):
        return RefusedEngine(path, problem, entry.identity)
    return entry


def _parse(data: bytes) -> Sidecar:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise EngineError(f"it is {shortened(value)}: expected an object")
    # NaN and infinity, which Python's JSON reader accepts, raise a ValueError here.
    if value.pop(CHECKSUM, None) != json_sha256(value):
        raise EngineError("its contents do not have the checksum that stands in it")
    sidecar: Sidecar = from_json(Sidecar, value, "sidecar")
    return sidecar


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:MAX_WORD].strip("._-")
