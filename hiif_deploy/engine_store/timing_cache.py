"""The builder's timing cache: what it measured on this GPU, so that the next build need not measure it again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from hiif_deploy.errors import EngineError
from hiif_deploy.support.messages import Say
from hiif_deploy.support.shared_files import asides, locked, remove_files, write_whole

CACHE, HASH = ".cache", ".sha256"


@dataclass(frozen=True)
class TimingCache:
    """One file of the library's own format, and its sha256 beside it. Whoever saves last wins."""

    path: Path
    """Of the cache."""
    lock: Path
    """Held while it is read or written."""

    def __post_init__(self) -> None:
        if self.path.suffix != CACHE:
            raise EngineError(f"{self.path}: expected a name ending in {CACHE}")

    @property
    def hash_path(self) -> Path:
        """Of the text file with the sha256."""
        return self.path.with_suffix(HASH)

    def load(self, say: Say) -> bytes:
        """What was saved; empty where nothing was, or where it was damaged, which is said."""
        with locked(self.lock, _wait_quietly):
            try:
                if not self.path.exists():
                    return b""
                data = self.path.read_bytes()
                if self.hash_path.read_bytes() == _sha256(data):
                    return data
                problem = "its bytes do not have the sha256 that stands beside it"
            except OSError as error:
                problem = f"it cannot be checked: {error.strerror}"
        say(f"{self.path}: damaged ({problem}); the build measures everything again")
        return b""

    def save(self, data: bytes) -> None:
        """Replace it. EngineError where it cannot be written."""
        if not data:
            raise EngineError(f"{self.path}: an empty timing cache was to be saved: expected the builder's bytes")
        with locked(self.lock, _wait_quietly):
            remove_files(*asides(self.path.parent).get(self.path.stem, []))
            write_whole(self.path, data)
            write_whole(self.hash_path, _sha256(data))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _wait_quietly() -> None:
    """Others hold the lock for a moment only."""
