"""The JSON file beside a stored engine: what it is, and a hash that ties both together."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hiif_deploy.bundle.contract import from_json, to_json
from hiif_deploy.engine_store.identity import MOST_NUMBER, EngineIdentity, canonical, check_sha256, shorten
from hiif_deploy.errors import EngineError, HiifError

LIMIT = 1 << 20
"""Bytes of a sidecar beyond which it is refused unread."""
MOST_DEPTH = 8
"""Levels of nesting in a report."""
CHECKSUM = "checksum"
"""Key of the sha256 over all the others."""


@dataclass(frozen=True)
class Sidecar:
    """What is known of a stored engine. Validated on construction."""

    format: Literal["hiif-deploy engine 1"]
    """Another number goes with other folder names, so that older programs never meet it."""
    identity: EngineIdentity
    """What the engine depends on."""
    sha256: str
    """Of the engine file, hexadecimal."""
    size: int
    """Bytes of the engine file."""
    created: str
    """When it was written: ISO 8601 with time zone."""
    build_seconds: float
    """How long building took."""
    report: Mapping[str, Any]
    """Verification figures of exactly this engine, plain JSON values."""

    def __post_init__(self) -> None:
        check_sha256("sha256", self.sha256)
        if type(self.size) is not int or self.size < 1:
            raise EngineError(f"size is {shorten(self.size)}: expected at least one byte")
        if not _is_time(self.created):
            raise EngineError(f"created is {shorten(self.created)}: expected a time such as 2026-11-25T10:00:00+00:00")
        if not math.isfinite(self.build_seconds) or self.build_seconds < 0:
            raise EngineError(f"build seconds are {self.build_seconds}: expected 0 or more")
        plain(self.report)


def make_sidecar(identity: EngineIdentity, data: bytes, build_seconds: float, report: Mapping[str, Any]) -> Sidecar:
    """For an engine that was built just now."""
    return Sidecar(
        "hiif-deploy engine 1", identity, hashlib.sha256(data).hexdigest(), len(data),
        datetime.now(UTC).isoformat(timespec="microseconds"), round(build_seconds, 3), plain(report),
    )  # fmt: skip


def sidecar_bytes(sidecar: Sidecar) -> bytes:
    """The file's contents. EngineError where the report is too large."""
    value = to_json(sidecar)
    value[CHECKSUM] = hashlib.sha256(canonical(value)).hexdigest()
    data = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode()
    if len(data) > LIMIT:
        raise EngineError(
            f"the report of {sidecar.identity.graph} makes {len(data):,} bytes: expected at most {LIMIT:,}"
        )
    return data


def read_sidecar(path: Path) -> Sidecar:
    """Parse and validate. FileNotFoundError where it is absent; EngineError says in one sentence what is wrong."""
    try:
        # Opening a pipe would wait for its other end.
        if path.exists() and not path.is_file():
            raise EngineError(f"{path.name}: not a file")
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        raise EngineError(f"{path.name}: cannot be read ({error.strerror})") from error
    if len(data) > LIMIT:
        raise EngineError(f"{path.name}: larger than {LIMIT} bytes, so it is not about an engine")
    try:
        return _parse(json.loads(data))
    except (ValueError, RecursionError, HiifError) as error:
        # What a damaged file holds must not get to spoil the terminal.
        reason = "".join(c if c.isprintable() else " " for c in str(error))
        raise EngineError(f"{path.name}: damaged ({reason if len(reason) <= 300 else reason[:299] + '…'})") from error


def plain(value: Any, depth: int = 0) -> Any:
    """As JSON can hold it: array scalars become numbers, infinite ones texts. EngineError for anything else."""
    if depth > MOST_DEPTH:
        raise EngineError(f"a report is nested more than {MOST_DEPTH} levels deep")
    if value is None or type(value) is bool or (type(value) is int and abs(value) <= MOST_NUMBER):
        return value
    if type(value) is str and _is_text(value):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping) and all(type(key) is str and _is_text(key) for key in value):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if getattr(value, "shape", None) == ():
        return plain(value.item(), depth + 1)
    raise EngineError(f"a report holds {shorten(value)}: expected what JSON can hold")


def _parse(value: Any) -> Sidecar:
    if not isinstance(value, dict):
        raise EngineError(f"it is {shorten(value)}: expected an object")
    checksum = value.pop(CHECKSUM, None)
    sidecar = from_json(Sidecar, value, "sidecar")
    assert isinstance(sidecar, Sidecar)
    # This also refuses NaN and infinity, which Python's JSON reader takes.
    if checksum != hashlib.sha256(canonical(to_json(sidecar))).hexdigest():
        raise EngineError("its contents do not have the checksum that stands in it")
    return sidecar


def _is_text(text: str) -> bool:
    """Whether UTF-8 can hold it: JSON can name halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
