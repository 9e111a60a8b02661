"""One clip of a server: a folder on the disk that holds it, its order, its state and its result."""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from hiif_deploy.errors import HiifError
from hiif_deploy.images.io import VIDEO_SUFFIXES
from hiif_deploy.server.clips.order import ClipOrder, parse_order
from hiif_deploy.server.collection import Entry
from hiif_deploy.server.web import RequestError, is_full_disk, reason_of, status_of
from hiif_deploy.support.files import list_folder, write_file
from hiif_deploy.video.monitor import Monitor

Status = Literal["planned", "queued", "running", "done", "failed", "cancelled"]
UNFINISHED = ("queued", "running")
STATE_FILE, LOCK_FILE, SAMPLES = "clip.json", ".lock", "samples"


@dataclass
class ClipJob:
    """A clip that arrived, and what becomes of it."""

    folder: Path
    """Named after the id."""
    name: str
    """As the client gave it: for people, never a path."""
    order: ClipOrder
    plan: Mapping[str, Any]
    """`ClipPlan.describe`."""
    status: Status = "planned"
    error: str | None = None
    error_status: int = 0
    """HTTP status of the error."""
    notes: tuple[str, ...] = ()
    """A sentence for everything that is lost or differs."""
    ends: int = 0
    """How often a server was killed while it upscaled the clip, since it was started."""
    seconds: float = 0.0
    """That the last run took."""
    created: float = field(default_factory=time.time)
    monitor: Monitor | None = None
    """Counts frames while it runs."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set to cancel it."""

    @property
    def id(self) -> str:
        """Under which clients know it; cannot be guessed."""
        return self.folder.name

    @property
    def source(self) -> Path:
        """The file that arrived."""
        return source_file(self.folder, self.name)

    @property
    def result(self) -> Path:
        """The file that comes out."""
        return self.folder / f"result{self.order.suffix}"

    @property
    def result_name(self) -> str:
        """File name of the result, as the command line gives it."""
        return f"{Path(self.name).stem}_{self.order.target.label}{self.order.suffix}"

    @property
    def is_over(self) -> bool:
        """Whether nothing is done to it any more."""
        return self.status not in UNFINISHED

    @property
    def bytes(self) -> int:
        """Bytes on the disk, and those that it will need."""
        try:
            found = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
            return found if self.is_over else max(found, self.source.stat().st_size + (self.plan["disk_mib"] << 20))
        except OSError:  # Another server removes it.
            return 0

    def samples(self) -> list[Entry]:
        """Return its sampled frames as pictures that nobody else finds."""
        return [
            Entry(f"{self.id}-{path.stem}", path, f"{self.name}, frame {int(path.stem)}")
            for path in list_folder(self.folder / SAMPLES)
        ]

    def describe(self) -> dict[str, Any]:
        """Return the state as clients see it."""
        total, monitor = self.plan["frames"], self.monitor  # which another thread removes
        progress = monitor.progress() if monitor and self.status == "running" else None
        done = progress.done if progress else total if self.status == "done" else 0
        state = {"id": self.id, "clip": self.name, "status": self.status, **self.plan}
        state |= {"steps_done": done, "steps": total, "seconds_left": progress.eta if progress else None}
        state |= {"seconds": round(progress.seconds if progress else self.seconds, 2), "notes": self.notes}
        state |= {"name": self.result_name, "order": dict(self.order.values)}
        state |= {"samples": [entry.id for entry in self.samples()]}
        return state if self.error is None else {**state, "error": self.error}

    def fail(self, error: Exception) -> None:
        """Note why it ended."""
        cause = error.__cause__
        if isinstance(cause, OSError) and is_full_disk(cause):
            error = cause
        self.status, self.error_status = "failed", status_of(error)
        self.error = without_paths(reason_of(error), self.folder, self.name)

    def check_result(self) -> None:
        """Raise RequestError where it failed, or has no result yet."""
        if self.error is not None:
            raise RequestError(self.error_status, self.error)
        if self.status != "done":
            raise RequestError(409, f"the clip is {self.status}: it has no result")

    def save(self) -> None:
        """Write the state to the disk. Raises OSError."""
        kept = {
            "name": self.name, "order": dict(self.order.values), "plan": self.plan, "notes": self.notes,
            "status": self.status, "error": self.error, "error_status": self.error_status, "seconds": self.seconds,
            "created": self.created, "ends": self.ends,
        }  # fmt: skip
        write_file(self.folder / STATE_FILE, json.dumps(kept, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return the clip of a folder; None where none was saved there."""
        try:
            kept = json.loads((folder / STATE_FILE).read_bytes())
            order = parse_order(kept.pop("order"), kept["name"])
            return cls(folder, order=order, **{**kept, "notes": tuple(kept["notes"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, HiifError):
            return None


def without_paths(text: str, folder: Path, name: str) -> str:
    """Return a message about the clip of a folder as its client may see it."""
    return text.replace(str(source_file(folder, name)), name).replace(f"{folder}/", "")


def source_file(folder: Path, name: str) -> Path:
    """Return where a clip lies that a client calls `name`. FFmpeg reads suffixes, so those that it knows are kept."""
    suffix = Path(name).suffix.lower()
    return folder / f"source{suffix if suffix in VIDEO_SUFFIXES else ''}"
