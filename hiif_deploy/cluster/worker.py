"""Code that runs on a node: an open upscaler that computes segments and pictures. Plain Python; Ray makes an actor of
it."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.geometry.target import Target
from hiif_deploy.pictures.batch import Outcome, WriteOptions, run_batch
from hiif_deploy.pictures.items import Item
from hiif_deploy.pictures.suited import SuitedModels
from hiif_deploy.support.extras import installed_version
from hiif_deploy.support.version import __version__
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_deploy.video.segments import make_segment
from hiif_deploy.video.task import Segment, SegmentTask

EDGE = 1 << 16
"""Bytes at both ends of a file that identify it."""
RELEVANT = ("hiif-deploy", "numpy", "onnxruntime", "av")
"""Distributions whose versions may affect the result."""

REMOVE_AT_EOF = """
import os, shutil, sys
if hasattr(os, "fork") and os.fork():
    os._exit(0)
sys.stdin.buffer.read()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
"""Deletes a folder when its standard input ends. It is detached, because Ray kills a worker's children with it."""


@dataclass(frozen=True)
class WorkerInfo:
    """Description of a worker once its model is open."""

    node: str
    """Name of the worker's machine."""
    process: int
    """Process number on that machine."""
    versions: dict[str, str | None]
    """Versions of the distributions that may affect the result."""
    folder: str
    """Folder of its temporary files."""


@dataclass(frozen=True)
class FileMark:
    """Fingerprint of a file, to tell whether another machine's path leads to the same one."""

    bytes: int
    """Length of the file in bytes."""
    edges: str
    """SHA-256 of its first and last bytes."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the fingerprint of a file. Raises OSError."""
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            first = file.read(EDGE)
            file.seek(max(0, length - EDGE))
            return cls(length, hashlib.sha256(first + file.read(EDGE)).hexdigest())


class Worker:
    """One model, opened once; its methods take and return only what can be pickled."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hiif-worker-"))
        self._guard = _remove_at_exit(self._folder)
        self._upscaler: Upscaler
        self._models: SuitedModels
        self._clips: dict[FileMark, Path] = {}

    def open(self, bundle: Bundle, engine: EngineOptions, options: RenderOptions) -> WorkerInfo:
        """Load the model and describe the worker. Raises EngineError."""
        self._upscaler = Upscaler(bundle, engine=engine, options=options)
        self._models = SuitedModels(self._upscaler)
        return WorkerInfo(platform.node(), os.getpid(), versions(), str(self._folder))

    def segment(self, task: SegmentTask, mark: FileMark, parts: Sequence[Any] | None) -> tuple[Segment, bytes] | None:
        """Compute a segment and return its file's bytes; None where the clip cannot be read here and must be sent.

        `parts` are references to the clip's bytes in order, once it was sent. Raises VideoError.
        """
        clip = self._clip(task.clip, mark, parts)
        if clip is None:
            return None
        made = make_segment(replace(task, clip=clip), self._upscaler, self._folder)
        path = self._folder / task.file_name
        data = path.read_bytes()
        path.unlink()
        return made, data

    def picture(self, item: Item, data: bytes, target: Target, options: WriteOptions) -> tuple[Outcome, bytes | None]:
        """Upscale a picture from its file's bytes; return the outcome, and the new file's bytes if one was written."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            own = Item(Path(folder, "in", item.source.name), Path(folder, "out", item.target.name))
            own.source.parent.mkdir()
            own.source.write_bytes(data)
            choose = self._models.choose if options.suits_models else None
            (outcome,) = run_batch(self._upscaler, [own], target, options, show_progress=False, choose=choose)
            if self._models.failure is not None:
                note = f"{self._models.failure}: upscaled by {self._upscaler.contract.name}"
                outcome = replace(outcome, notes=(*outcome.notes, note) if outcome.untrained else outcome.notes)
            made = own.target.read_bytes() if outcome.status in ("done", "copied") else None
            error = outcome.error and outcome.error.replace(str(own.source), str(item.source))
            return replace(outcome, source=str(item.source), target=str(item.target), error=error), made

    def close(self) -> None:
        """Close the model and delete all temporary files."""
        if hasattr(self, "_upscaler"):  # where `open` was called
            self._models.close()
            self._upscaler.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._guard.close()

    def _clip(self, path: Path, mark: FileMark, parts: Sequence[Any] | None) -> Path | None:
        """Return the local path of the marked file: its own path, or the copy that was sent."""
        if mark not in self._clips:
            if is_marked(path, mark):
                self._clips[mark] = path
            elif parts is None:
                return None
            else:
                self._clips[mark] = self._receive(path.suffix, parts)
        return self._clips[mark]

    def _receive(self, suffix: str, parts: Sequence[Any]) -> Path:
        import ray

        path = self._folder / f"clip{len(self._clips)}{suffix}"
        with path.open("wb") as file:
            for part in parts:
                file.write(ray.get(part))
        return path


def _remove_at_exit(folder: Path) -> IO[bytes]:
    """Delete the folder when the returned pipe closes, which it does however this process ends."""
    command = [sys.executable, "-I", "-S", "-c", REMOVE_AT_EOF, str(folder)]
    null = subprocess.DEVNULL
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True)
    if hasattr(os, "fork"):
        guard.wait()  # for the parent only, which ends at once; its child waits for the pipe
    assert guard.stdin is not None
    return guard.stdin


def is_marked(path: Path, mark: FileMark) -> bool:
    """Return whether the marked file lies at `path`."""
    try:
        return FileMark.of(path) == mark
    except OSError:
        return False


def versions() -> dict[str, str | None]:
    """Return the local versions of the distributions that may affect the result."""
    return {**{name: installed_version(name) for name in RELEVANT}, "hiif-deploy": __version__}
