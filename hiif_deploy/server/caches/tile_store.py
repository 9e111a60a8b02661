"""Encoded tiles on the disk, bounded by bytes."""

import contextlib
import hashlib
import logging
import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from hiif_deploy.support.files import list_folder

DIGEST = hashlib.sha256().digest_size
SUFFIX = ".tile"

logger = logging.getLogger(__name__)


class TileStore:
    """Keeps the tiles that were used last within a budget of bytes. Thread-safe; one process per folder.

    A file begins with the SHA-256 of the rest: files are not flushed to the disk, which takes longer than many tiles,
    so after a power failure some may be damaged. Where nothing can be written, tiles are not kept.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        """`folder` exists; tiles of an earlier run that lie in it are used."""
        self._folder = folder
        self._budget = budget
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._is_failing = False
        self.bytes = 0
        """Bytes of all files."""
        self._adopt()

    def get(self, key: str) -> bytes | None:
        """Return a tile, which becomes the most recent one; None where it is not kept or damaged."""
        name = _name(key)
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        path = self._folder / name
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if hashlib.sha256(data[DIGEST:]).digest() == data[:DIGEST]:
                # The order of an earlier run's tiles is that of their times.
                os.utime(path)
                return data[DIGEST:]
        with self._lock:
            self._remove(name)
        return None

    def put(self, key: str, tile: bytes) -> None:
        """Keep a tile; older ones make room for it."""
        name, size = _name(key), DIGEST + len(tile)
        with self._lock:
            self._remove(name)
            if size > self._budget:
                return
            while self.bytes + size > self._budget:
                self._remove(next(iter(self._sizes)))
            if self._write(name, hashlib.sha256(tile).digest() + tile):
                self._sizes[name] = size
                self.bytes += size

    def _write(self, name: str, data: bytes) -> bool:
        temporary = self._folder / f".{secrets.token_hex(8)}.tmp"
        try:
            temporary.write_bytes(data)
            temporary.replace(self._folder / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not self._is_failing:
                logger.warning("%s: tiles cannot be kept (%s)", self._folder, error.strerror)
            self._is_failing = True
            return False
        self._is_failing = False
        return True

    def _remove(self, name: str) -> None:
        size = self._sizes.pop(name, None)
        if size is not None:
            self.bytes -= size
            with contextlib.suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)

    def _adopt(self) -> None:
        """Take over the files of an earlier run, and remove what exceeds the budget or was left unfinished."""
        found: list[tuple[float, str, int]] = []
        for path in list_folder(self._folder):
            with contextlib.suppress(OSError):
                if path.suffix == SUFFIX:
                    found.append((path.stat().st_mtime, path.name, path.stat().st_size))
                elif path.name.startswith(".") and path.suffix == ".tmp":
                    path.unlink()
        for _, name, size in sorted(found):
            self._sizes[name] = size
            self.bytes += size
        while self.bytes > self._budget:
            self._remove(next(iter(self._sizes)))


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest() + SUFFIX
