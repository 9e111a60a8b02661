"""The pictures of a server by id: those of folders that were named at the start, samples, and uploads."""

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hiif_deploy.errors import ImageError
from hiif_deploy.images.io import readable_suffixes
from hiif_deploy.images.samples import SAMPLES
from hiif_deploy.server.web import RequestError

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
"""What a name has that an id has not: an id is one segment of a URL as it is, and `@` has a meaning of its own."""


@dataclass(frozen=True)
class Entry:
    """One picture file."""

    id: str
    """Under which clients know it."""
    path: Path
    """Never given to clients, and never made from what they send."""
    name: str
    """File name, for people."""
    is_upload: bool = False
    is_listed: bool = True
    """Whether everyone may know of it; the id of any other cannot be guessed."""

    @property
    def version(self) -> str:
        """Another text after the file has changed. ImageError where it is gone."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read any more ({error.strerror})") from error
        return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"


class Collection:
    """All pictures of a server. Thread-safe. Clients name ids only, which are looked up in a table."""

    def __init__(self, uploads: Path, upload_bytes: int) -> None:
        """Uploads lie in the folder `uploads`; the oldest are removed beyond `upload_bytes` in all."""
        self._uploads = uploads
        self._upload_bytes = upload_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Pictures that everyone may know of."""
        with self._lock:
            return sum(entry.is_listed for entry in self._entries.values())

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
        """Return all pictures, uploads last."""
        with self._lock:
            return sorted(self._entries.values(), key=lambda entry: entry.is_upload)

    def find(self, id_: str) -> Entry:
        """Return a picture. RequestError 404 where there is none of that id."""
        with self._lock:
            entry = self._entries.get(id_)
        if entry is None:
            raise RequestError(404, "there is no picture of that id")
        return entry

    def add_upload(self, path: Path, name: str, prefix: str = "") -> Entry:
        """Take over an uploaded file; the id is a hash of its contents behind `prefix`, so that no one can guess
        another's."""
        with path.open("rb") as file:
            id_ = f"u{prefix}{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}"
        with self._lock:
            kept = path.replace(self._uploads / id_)
            entry = Entry(id_, kept, name, is_upload=True, is_listed=False)
            self._entries.pop(id_, None)
            self._entries[id_] = entry
            self._make_room(entry)
        return entry

    def add_unlisted(self, entries: Iterable[Entry]) -> None:
        """Add pictures whose files belong to the caller."""
        with self._lock:
            self._entries.update((entry.id, entry) for entry in entries)

    def discard(self, entries: Iterable[Entry]) -> None:
        """Remove pictures of `add_unlisted`; their files stay."""
        with self._lock:
            for entry in entries:
                self._entries.pop(entry.id, None)

    def remove(self, id_: str) -> None:
        """Remove an upload. RequestError where it is none."""
        entry = self.find(id_)
        if not entry.is_upload:
            raise RequestError(403, "only uploaded pictures can be removed")
        with self._lock:
            self._drop(entry)

    def _add(self, found: Iterable[tuple[Path, str]]) -> None:
        for path, name in found:
            stem = UNSAFE.sub("-", str(Path(name).with_suffix(""))).strip("-.") or "picture"
            id_, count = stem, 1
            while id_ in self._entries:
                count += 1
                id_ = f"{stem}-{count}"
            self._entries[id_] = Entry(id_, path, name)

    def _make_room(self, newest: Entry) -> None:
        uploads = [entry for entry in self._entries.values() if entry.is_upload]
        sizes = {entry.id: entry.path.stat().st_size for entry in uploads}
        total = sum(sizes.values())
        for entry in uploads:
            if total <= self._upload_bytes or entry is newest:
                return
            total -= sizes[entry.id]
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._entries.pop(entry.id, None)
        entry.path.unlink(missing_ok=True)
