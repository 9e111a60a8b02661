"""The pictures of a server by id: those of folders that were named at the start, samples, and uploads."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hiif_deploy.errors import ImageError
from hiif_deploy.images.io import readable_suffixes
from hiif_deploy.images.samples import SAMPLES
from hiif_deploy.server.web import RequestError
from hiif_deploy.support.files import list_folder

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
"""What a name has that an id has not: an id is one segment of a URL as it is, and `@` has a meaning of its own."""
UPLOAD = re.compile(r"u[0-9a-f]{32,}")
"""Ids of uploads, which name their files."""
NAME_SUFFIX = ".name"
"""Of the file beside an upload that holds its name."""


@dataclass(frozen=True)
class Entry:
    """One picture file."""

    id: str
    """Under which clients know it."""
    path: Path
    """Never given to clients."""
    name: str
    """File name, for people."""
    is_upload: bool = False
    """Known by its id alone, which cannot be guessed."""

    @property
    def version(self) -> str:
        """Another text after the file has changed. ImageError where it is gone."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read any more ({error.strerror})") from error
        # An upload's id is a hash of its contents: the same file sent again is no other one.
        return self.id if self.is_upload else f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


class Collection:
    """All pictures of a server. Thread-safe. Clients name ids only: those in a table, or hexadecimal digits that name a
    file. Other servers may use the same folder of uploads."""

    def __init__(self, uploads: Path, upload_bytes: int) -> None:
        """Uploads lie in the folder `uploads`; the oldest are removed beyond `upload_bytes` in all."""
        self._uploads = uploads
        self._upload_bytes = upload_bytes
        self._entries: dict[str, Entry] = {}
        self._finders: list[Callable[[str], Entry | None]] = [self._upload]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Pictures that everyone may know of."""
        return len(self._entries)

    def add_samples(self) -> None:
        """Add the pictures that ship with the package."""
        folder = Path(str(files("hiif_deploy") / "samples"))
        self._add((folder / f"{name}.png", f"{name}.png") for name in SAMPLES)

    def add_folder(self, root: Path) -> None:
        """Add all pictures of a folder and those below it, or one file. ImageError where there are none."""
        if root.is_file():
            found = [root]
        else:
            readable = readable_suffixes()
            found = sorted(path for path in root.rglob("*") if path.suffix.lower() in readable and path.is_file())
        if not found:
            raise ImageError(f"{root}: no pictures there; expected a picture or a folder of them")
        self._add((path, path.name if path == root else str(path.relative_to(root))) for path in found)

    def entries(self) -> list[Entry]:
        """Return the pictures that everyone may know of."""
        return list(self._entries.values())

    def find(self, id_: str) -> Entry:
        """Return a picture. RequestError 404 where there is none of that id."""
        entry = self._entries.get(id_)
        for find in self._finders if entry is None else ():
            entry = entry or find(id_)
        if entry is None:
            raise RequestError(404, "there is no picture of that id")
        return entry

    def add_finder(self, find: Callable[[str], Entry | None]) -> None:
        """Add a source of unlisted pictures: `find` returns one by its id, or None."""
        self._finders.append(find)

    def add_upload(self, path: Path, name: str, prefix: str = "") -> Entry:
        """Take over an uploaded file; the id is a hash of its contents behind `prefix`, so that no one can guess
        another's."""
        with path.open("rb") as file:
            id_ = f"u{prefix}{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}"
        with self._lock:
            kept = self._uploads / id_
            kept.with_suffix(NAME_SUFFIX).write_text(name, encoding="utf-8")
            path.replace(kept)
            kept.touch()  # The oldest ones make room.
            self._make_room(kept)
        return Entry(id_, kept, name, is_upload=True)

    def remove(self, id_: str) -> None:
        """Remove an upload. RequestError where it is none."""
        entry = self.find(id_)
        if not entry.is_upload:
            raise RequestError(403, "only uploaded pictures can be removed")
        with self._lock:
            self._drop(entry.path)

    def _upload(self, id_: str) -> Entry | None:
        if not UPLOAD.fullmatch(id_):
            return None
        path = self._uploads / id_
        try:
            name = path.with_suffix(NAME_SUFFIX).read_text(encoding="utf-8")
        except OSError:
            return None
        return Entry(id_, path, name, is_upload=True) if path.is_file() else None

    def _add(self, found: Iterable[tuple[Path, str]]) -> None:
        for path, name in found:
            stem = UNSAFE.sub("-", str(Path(name).with_suffix(""))).strip("-.") or "picture"
            id_, count = stem, 1
            while id_ in self._entries:
                count += 1
                id_ = f"{stem}-{count}"
            self._entries[id_] = Entry(id_, path, name)

    def _make_room(self, newest: Path) -> None:
        found = []
        for path in list_folder(self._uploads):
            with contextlib.suppress(OSError):  # Another server may have removed it.
                if UPLOAD.fullmatch(path.name):
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._upload_bytes:
                return
            if path != newest:
                total -= size
                self._drop(path)

    def _drop(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.with_suffix(NAME_SUFFIX).unlink(missing_ok=True)
