"""Upscaling of whole pictures: planned before it runs, queued, with progress, and results that are kept for a while."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import ImageError, OptionError, ScaleError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.target import Target, parse_target
from hiif_deploy.images.degradation import measure
from hiif_deploy.images.encode import SUFFIXES
from hiif_deploy.images.io import check_stream, write_image
from hiif_deploy.images.picture import Picture
from hiif_deploy.pictures.batch import planned_bytes, upscale_picture
from hiif_deploy.pictures.pace import Pace, measure_pace, probe_size
from hiif_deploy.server.collection import Entry
from hiif_deploy.server.metrics import Metrics
from hiif_deploy.server.models import Model, parse_precision
from hiif_deploy.server.options import Limits
from hiif_deploy.server.studio import Studio, read_entry
from hiif_deploy.server.web import RequestError, changed_states, reason_of, status_of
from hiif_deploy.server.work_queue import Progress, StoppedError, WorkQueue

PARAMETERS = (
    "scale", "size", "width", "height", "max_side", "model", "precision", "format", "quality", "lossless", "picture",
)  # fmt: skip
"""Names of the parameters of an order."""
FLAGS = {"true": True, "1": True, "false": False, "0": False}
READ_AHEAD, READ_AHEAD_BYTES = 3, 1 << 26
"""Jobs from the front of the queue whose pictures are kept between their plan and their work, and bytes of each at
most: the others' are decoded again."""
Status = Literal["queued", "running", "done", "failed", "cancelled"]
MEDIA_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".tif": "image/tiff",
    ".tiff": "image/tiff", ".bmp": "image/bmp",
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What a client wants of a picture."""

    target: Target
    model: str | None
    """None: the one that suits the picture."""
    precision: ComputePrecision | None
    """None: the server's own."""
    suffix: str | None
    """Of the output; None: as the input's name."""
    quality: int
    lossless: bool


@dataclass(frozen=True)
class Estimate:
    """What an order takes, known before it runs."""

    model: Model
    source: Size
    target: Size
    bytes: int
    """Memory."""
    steps: int
    """Steps that the work reports."""

    def describe(self) -> dict[str, Any]:
        """Return it as clients see it."""
        return {
            "model": self.model.name,
            "precision": self.model.upscaler.precision,
            "source": across(self.source),
            "target": across(self.target),
            "memory_mib": self.bytes >> 20,
        }


@dataclass
class Job:
    """One picture to upscale."""

    id: str
    entry: Entry
    order: Order
    estimate: Estimate
    result: Path
    progress: Progress
    picture: Picture | None = None
    """Decoded for the plan already, where it is small and soon its turn."""
    status: Status = "queued"
    error: Exception | None = None
    notes: tuple[str, ...] = ()
    """A sentence for all that the picture lost."""
    began: float = 0.0
    ended: float = 0.0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    """What does the work."""

    @property
    def suffix(self) -> str:
        """Suffix of the output."""
        own = Path(self.entry.name).suffix.lower()
        return self.order.suffix or (own if own in SUFFIXES else ".png")

    @property
    def name(self) -> str:
        """File name of the output, as the command line gives it."""
        return f"{Path(self.entry.name).stem}_{self.order.target.label}{self.suffix}"

    def describe(self) -> dict[str, Any]:
        """Return the state as clients see it."""
        done, steps = self.progress.done, self.estimate.steps
        seconds = (self.ended or time.monotonic()) - self.began if self.began else 0.0
        left = seconds / done * max(0, steps - done) if done and self.status == "running" else None
        state = {"id": self.id, "status": self.status, **self.estimate.describe()}
        state |= {
            "steps_done": done,
            "steps": steps,
            "seconds": round(seconds, 2),
            "notes": self.notes,
            "name": self.name,
        }
        state |= {"seconds_left": None if left is None else round(left, 1)}
        return state if self.error is None else {**state, "error": reason_of(self.error)}


class Jobs:
    """All jobs of a server. Its methods belong to the event loop."""

    def __init__(self, studio: Studio, folder: Path, reading: WorkQueue, limits: Limits, metrics: Metrics) -> None:
        """Results lie in `folder`; `reading` is where pictures are decoded for their plans."""
        self._studio = studio
        self._folder = folder
        self._reading = reading
        self._limits = limits
        self._metrics = metrics
        self._paces: dict[tuple[str, Size], Pace] = {}
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self.queue = WorkQueue("jobs", limits.jobs, limits.seconds, retry_seconds=30)
        """Where pictures are upscaled."""
        # One is encoded and written while the next one is computed; more would fill the memory.
        self._in_memory = asyncio.Semaphore(2)

    def parse(self, values: Mapping[str, str]) -> Order:
        """Return the order in a request's parameters. OptionError or ScaleError where they make none."""
        check_names(values, PARAMETERS)
        model, precision = values.get("model") or None, parse_precision(values.get("precision"))
        if model is not None:
            self._studio.models.kept(model, precision)
        sides = (whole_number(values, name) for name in ("width", "height", "max_side"))
        target = parse_target(values.get("scale"), values.get("size"), *sides)
        suffix = f".{values['format'].lower().lstrip('.')}" if values.get("format") else None
        if suffix is not None and suffix not in SUFFIXES:
            raise OptionError(f"format: expected one of {', '.join(name[1:] for name in SUFFIXES)}")
        quality = whole_number(values, "quality")
        if quality is not None and not 1 <= quality <= 100:
            raise OptionError(f"quality {quality}: expected 1 to 100")
        return Order(target, model, precision, suffix, quality or 95, flag(values, "lossless", default=False))

    async def estimate(self, entry: Entry, order: Order) -> Estimate:
        """Return what an order takes. RequestError 413 where that is more than a limit."""
        return (await self._read(entry, order))[0]

    async def seconds(self, estimate: Estimate) -> float:
        """Return about how many seconds it takes on this machine, from a small picture."""
        model, size = estimate.model, probe_size(estimate.source, estimate.target)
        key = model.key, size
        if key not in self._paces:
            self._paces[key] = await self._reading.run(lambda _: measure_pace(model.upscaler, size))
        return self._paces[key].seconds(estimate.source, estimate.target)

    async def start(self, entry: Entry, order: Order, *, owns: bool, prefix: str = "") -> Job:
        """Plan and queue an order. With `owns` the entry's file is removed when the job ends. The job's id begins with
        `prefix`.

        RequestError 413 as `estimate`, 503 where too many jobs wait.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(_remove, entry, owns=owns)
            # Before the plan is made: what was accepted is never refused later, and a full queue costs no work.
            progress = self.queue.reserve()
            undo.callback(self.queue.release, progress)
            estimate, picture = await self._read(entry, order)
            undo.pop_all()
        id_ = prefix + secrets.token_hex(16)
        job = Job(id_, entry, order, estimate, self._folder / id_, progress)
        if self.queue.length <= READ_AHEAD and picture.pixels.nbytes <= READ_AHEAD_BYTES:
            job.picture = picture
        self._jobs[id_] = job
        job.task = asyncio.create_task(self._run(job, owns=owns))
        await asyncio.sleep(0)  # It begins: a task that is cancelled before would leave the job without an end.
        return job

    def find(self, id_: str) -> Job:
        """Return a job. RequestError 404 where there is none of that id, or no more."""
        if id_ not in self._jobs:
            raise RequestError(404, "there is no job of that id, or no more")
        return self._jobs[id_]

    def remove(self, job: Job) -> None:
        """Cancel a job, or remove one that is over with its result."""
        job.progress.stop()
        if job.task is not None and job.status == "queued":
            job.task.cancel()  # Its turn, when it would notice, may be minutes away.
        if job.is_over.is_set():
            self._jobs.pop(job.id, None)
            job.result.unlink(missing_ok=True)

    def events(self, job: Job) -> AsyncIterator[dict[str, Any]]:
        """Yield the state of a job whenever it has changed, until it is over."""
        return changed_states(job.describe, job.is_over.is_set)

    async def _read(self, entry: Entry, order: Order) -> tuple[Estimate, Picture]:
        return await self._reading.run(lambda _: self._estimated(entry, order))

    def _estimated(self, entry: Entry, order: Order) -> tuple[Estimate, Picture]:
        with self._metrics.stage("plan"):
            picture = read_entry(entry, self._limits.input_pixels)
            model = self._studio.models.open(order.model or self._studio.suited(measure(picture)), order.precision)
            upscaler = model.upscaler
            size = order.target.size(picture.size)
            check_stream(order.suffix or ".png", size)
            needed = planned_bytes(upscaler, picture, size)
            if size[0] * size[1] > self._limits.output_pixels:
                raise RequestError(
                    413, f"{size[1]}x{size[0]} pixels would come out; this server makes {self._limits.output_pixels:,}"
                )
            if needed > self._limits.job_bytes:
                raise RequestError(
                    413, f"it would take {needed >> 20} MiB of memory; this server gives {self._limits.job_bytes >> 20}"
                )
            return Estimate(model, picture.size, size, needed, upscaler.steps(picture.size, size)), picture

    async def _run(self, job: Job, *, owns: bool) -> None:
        try:
            async with self._in_memory:
                made = await self.queue.run(lambda progress: self._upscaled(job, progress), job.progress)
                await asyncio.to_thread(self._write, job, made)
            job.status = "done"
        except asyncio.CancelledError:
            job.error, job.status = StoppedError(499, "the work was cancelled"), "cancelled"
        except Exception as error:
            job.error = error
            job.status = "cancelled" if isinstance(error, StoppedError) and status_of(error) == 499 else "failed"
        finally:
            self.queue.release(job.progress)
            job.ended, job.picture = time.monotonic(), None
            _remove(job.entry, owns=owns)
            job.is_over.set()
            self._make_room()

    def _upscaled(self, job: Job, progress: Progress) -> Picture:
        job.status, job.began = "running", time.monotonic()
        picture, size = job.picture or read_entry(job.entry, self._limits.input_pixels), job.estimate.target
        with self._metrics.stage("upscale"):
            made = upscale_picture(job.estimate.model.upscaler, picture, size, advance=progress)
        self._metrics.megapixels(size[0] * size[1])
        return made

    def _write(self, job: Job, made: Picture) -> None:
        part, order = job.result.with_name(f"{job.id}{job.suffix}"), job.order
        with self._metrics.stage("write"):
            try:
                lost = write_image(part, made, quality=order.quality, lossless=order.lossless)
            except ImageError as error:
                raise RequestError(507, str(error).replace(str(part), job.name)) from error
            part.replace(job.result)
        job.notes = (*made.notes, *lost)

    def _make_room(self) -> None:
        over = [job for job in self._jobs.values() if job.is_over.is_set()]
        sizes = {job.id: job.result.stat().st_size if job.result.exists() else 0 for job in over}
        count, total = len(over), sum(sizes.values())
        for job in over[:-1]:
            if count <= self._limits.finished_jobs and total <= self._limits.results_bytes:
                return
            count, total = count - 1, total - sizes[job.id]
            self.remove(job)


def check_names(values: Mapping[str, str], known: Iterable[str]) -> None:
    """Raise OptionError for parameters that are not known."""
    if unknown := sorted(values.keys() - set(known)):
        raise OptionError(f"unknown parameters: {', '.join(unknown)}; expected some of {', '.join(known)}")


def whole_number(values: Mapping[str, str], name: str) -> int | None:
    """Return a parameter that is a whole number. ScaleError where it is none."""
    text = values.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ScaleError(f"{name}: expected a whole number")
    return int(text)


def flag(values: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Return a parameter that is true or false. OptionError where it is neither."""
    text = values.get(name)
    if text not in (None, "", *FLAGS):
        raise OptionError(f"{name}: expected true or false")
    return FLAGS[text] if text else default


def _remove(entry: Entry, *, owns: bool) -> None:
    if owns:
        entry.path.unlink(missing_ok=True)


def across(size: Size) -> dict[str, int]:
    """Return (height, width) as clients see it."""
    return {"width": size[1], "height": size[0]}
