"""All clips of a server: they arrive, are planned and upscaled one after the other, and go on after a restart.

Their folders hold all that is known of them, and other servers of the machine may use the same ones. Whoever upscales a
clip holds the lock of its folder, which the system releases when it is killed: then another server goes on.
"""

import contextlib
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiif_deploy.bundle.loader import VIDEO_MODEL
from hiif_deploy.errors import EngineError, HiifError, OptionError, VideoError
from hiif_deploy.server.clips.job import LOCK_FILE, SAMPLES, STATE_FILE, ClipJob, source_file, without_paths
from hiif_deploy.server.clips.order import ClipOrder, parse_order
from hiif_deploy.server.clips.plan import ClipPlan, Planner
from hiif_deploy.server.clips.samples import write_samples
from hiif_deploy.server.collection import Collection, Entry
from hiif_deploy.server.metrics import Metrics
from hiif_deploy.server.options import Limits
from hiif_deploy.server.studio import Studio
from hiif_deploy.server.web import RequestError, changed_states, is_full_disk
from hiif_deploy.server.work_queue import StoppedError
from hiif_deploy.support.files import list_folder, locked
from hiif_deploy.video.monitor import Monitor
from hiif_deploy.video.run import is_complete, make_video
from hiif_deploy.video.segments import make_segments
from hiif_deploy.video.task import Segment, SegmentTask

logger = logging.getLogger(__name__)
ID = re.compile(r"[0-9a-f]{32,}")
SAMPLE = re.compile(r"([0-9a-f]{32,})-[0-9]{6}")
PATIENCE = 1.0
"""Seconds that a clip waits for pictures before each of its steps at most: it never stands still."""
PAUSE = 0.02
"""Seconds between two looks whether pictures wait."""
MAX_ENDS = 5
"""Servers that a clip may end, by the memory that it takes for example, before it is given up."""
GONE = "there is no clip of that id, or no more"


@dataclass
class _Run:
    """A clip that waits or runs here."""

    job: ClipJob
    future: "Future[None]"
    held: contextlib.ExitStack
    """Holds the lock of its folder."""


class Clips:
    """Thread-safe. `add`, `plan` and `start` block for long; call them in one thread, and not in the event loop."""

    def __init__(
        self, studio: Studio, collection: Collection, folder: Path, limits: Limits, metrics: Metrics,
        is_busy: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Clips lie in `folder`, which exists; those of an earlier run go on. They wait while `is_busy()`."""
        self.folder = folder
        self._studio = studio
        self._limits = limits
        self._metrics = metrics
        self._is_busy = is_busy
        self._planner = Planner(studio, limits)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="clips")
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._unsaved: dict[str, ClipJob] = {}
        """Clips that ended while the disk was full."""
        self._is_closed = False
        collection.add_finder(self._sample)
        self._adopt()

    @property
    def length(self) -> int:
        """Clips that run or wait."""
        with self._lock:
            return len(self._runs)

    def check_queue(self) -> None:
        """Raise RequestError 503 where too many clips wait."""
        if self._is_closed or self.length > self._limits.clips:
            raise RequestError(503, f"{self.length} clips wait already; try again later", {"Retry-After": "60"})

    def add(self, path: Path, name: str, values: Mapping[str, str], prefix: str = "") -> ClipJob:
        """Take over a file that arrived on the disk of `self.folder`, and plan it. Its id begins with `prefix`.

        Errors as `Planner`; RequestError 503 without room.
        """
        self._make_room(path.stat().st_size)
        folder = self.folder / f"{prefix}{secrets.token_hex(16)}"
        folder.mkdir()
        try:
            source = path.replace(source_file(folder, name))
            with _without_paths(folder, name):
                self._planner.check(source)
                order = parse_order(self._complete(values), name)
                plan = self._planner.plan(source, order)
            job = ClipJob(folder, name, order, plan.describe(), notes=_notes(plan, folder, name))
            (folder / SAMPLES).mkdir()
            write_samples(plan.video, folder / SAMPLES)
            job.save()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return job

    def plan(self, job: ClipJob, values: Mapping[str, str]) -> dict[str, Any]:
        """Return what another order for a clip would take. Errors as `Planner`."""
        with _without_paths(job.folder, job.name):
            return self._planner.plan(job.source, parse_order(self._complete(values), job.name)).describe()

    def start(self, job: ClipJob, values: Mapping[str, str]) -> None:
        """Queue a clip, by its own order where `values` are empty. What the same order has made is kept.

        RequestError 409 where it waits or runs, here or elsewhere, or did so since `find`, 404 where it was removed,
        503 where too many wait or there is no room; errors as `Planner`.
        """
        if not job.is_over:
            raise RequestError(409, f"the clip is {job.status} already")
        self.check_queue()
        with _without_paths(job.folder, job.name):
            order = parse_order(self._complete(values) if values else job.order.values, job.name)
            plan = self._planner.plan(job.source, order)
        self._make_room(plan.disk, keep=job)
        with self._lock, contextlib.ExitStack() as held:
            now = None if job.id in self._runs else self._hold(job, held)
            if now is None or not now.is_over or now.order != job.order:
                raise RequestError(409, "the clip was started meanwhile")
            self._requeue(job, order, plan)
            self._submit(job, held.pop_all())

    def _requeue(self, job: ClipJob, order: ClipOrder, plan: ClipPlan) -> None:
        if order != job.order:
            for made in job.folder.glob("*result*"):
                shutil.rmtree(made) if made.is_dir() else made.unlink()
        job.order, job.plan, job.notes = order, plan.describe(), _notes(plan, job.folder, job.name)
        job.status, job.error, job.ends = "queued", None, 0
        job.save()
        self._unsaved.pop(job.id, None)

    def find(self, id_: str) -> ClipJob:
        """Return a clip, and go on with it where its server was killed. RequestError 404 where there is none."""
        with self._lock:
            if id_ in self._runs:
                return self._runs[id_].job
            job = self._unsaved.get(id_) or (ClipJob.load(self.folder / id_) if ID.fullmatch(id_) else None)
            if job is None:
                raise RequestError(404, GONE)
            self._resume(job)
            return self._runs[id_].job if id_ in self._runs else job

    def remove(self, job: ClipJob) -> None:
        """Cancel a clip, whose finished parts are kept; or remove one that is over, with its result.

        RequestError 503 or 409 where another server upscales it, 404 where it was removed.
        """
        with self._lock:
            if job.is_over:
                self._drop(job)
                return
            if job.id not in self._runs:
                raise RequestError(503, "another server of this folder upscales it", {"Retry-After": "5"})
            job.stopped.set()
            if self._runs[job.id].future.cancel():
                self._end(job, StoppedError(499, "the work was cancelled"))

    async def events(self, job: ClipJob) -> AsyncIterator[dict[str, Any]]:
        """Yield the state of a clip whenever it has changed, until it is over."""

        def found() -> ClipJob | None:
            with contextlib.suppress(RequestError):
                return self.find(job.id)
            return None

        async for state in changed_states(
            lambda: (found() or job).describe(), lambda: (now := found()) is None or now.is_over
        ):
            yield state

    def close(self) -> None:
        """Stop, and wait for the thread's end; the next server with this folder resumes."""
        self._is_closed = True
        self._pool.shutdown(cancel_futures=True)
        for run in self._runs.values():
            run.held.close()

    def _complete(self, values: Mapping[str, str]) -> dict[str, str]:
        names = self._studio.models.names
        first = VIDEO_MODEL if VIDEO_MODEL in names else names[0]
        return {**values, "model": values.get("model") or first}

    def _hold(self, job: ClipJob, held: contextlib.ExitStack) -> ClipJob:
        """Hold a clip's lock until `held` is closed. Return the clip as it is now: others may have changed it.

        RequestError 409 where another server holds it, 404 where it was removed, 507 or 500 where it cannot be locked.
        """
        try:
            is_ours = held.enter_context(locked(job.folder / LOCK_FILE, wait=False))
        except EngineError as error:  # It names the file.
            logger.warning("clip %s: %s", job.id, error)
            is_full = isinstance(error.__cause__, OSError) and is_full_disk(error.__cause__)
            raise RequestError(507 if is_full else 500, "the server cannot lock the clip") from error
        if not is_ours:
            raise RequestError(409, "another server of this folder upscales the clip")
        now = self._unsaved.get(job.id) or ClipJob.load(job.folder)
        if now is None:
            if not (job.folder / STATE_FILE).exists():
                shutil.rmtree(job.folder, ignore_errors=True)  # The lock has made the folder again.
            raise RequestError(404, GONE)
        return now

    def _submit(self, job: ClipJob, held: contextlib.ExitStack) -> None:
        job.status = "queued"  # A killed server may have left `running`.
        self._runs[job.id] = _Run(job, self._pool.submit(self._run, job), held)

    def _resume(self, job: ClipJob) -> None:
        """Go on with a clip that is unfinished, unless another server does or this one ends."""
        if job.is_over or self._is_closed:
            return
        with contextlib.suppress(RequestError), contextlib.ExitStack() as held:
            now = self._hold(job, held)
            if not now.is_over:
                self._submit(now, held.pop_all())

    def _sample(self, id_: str) -> Entry | None:
        found = SAMPLE.fullmatch(id_)
        job = ClipJob.load(self.folder / found[1]) if found else None
        return next((entry for entry in job.samples() if entry.id == id_), None) if job else None

    def _run(self, job: ClipJob) -> None:
        error = None
        try:
            self._begin(job)
            with self._metrics.stage("clip"), _without_paths(job.folder, job.name):
                self._upscale(job)
        except Exception as failure:
            if self._is_closed:
                self._pause(job)
                return
            error = failure
        self._end(job, error)

    def _begin(self, job: ClipJob) -> None:
        """Count the clip as one that ends its server, until it is over. RequestError 500 where it ended too many."""
        if job.ends >= MAX_ENDS:
            raise RequestError(500, f"{job.ends} servers ended while they upscaled the clip; start it to try again")
        job.status, job.ends = "running", job.ends + 1
        job.save()

    def _pause(self, job: ClipJob) -> None:
        """Note that a clip waits for the next server."""
        job.status, job.ends = "queued", job.ends - 1
        with contextlib.suppress(OSError):
            job.save()

    def _upscale(self, job: ClipJob) -> None:
        step = self._stepper(job)
        step(0)
        if job.result.exists():
            is_complete(job.result)  # A run that was killed may have left its journal.
            return

        def make(tasks: Sequence[SegmentTask], folder: Path, monitor: Monitor) -> Iterator[Segment]:
            job.monitor = monitor
            return make_segments(tasks, upscaler, folder, monitor.advance, monitor.fill, step)

        planned = self._planner.plan(job.source, job.order)
        plan, upscaler = planned.video, planned.model.upscaler
        size = plan.encoding.size
        # Finished parts are used where nothing has changed, and made again after a change of the model or of FFmpeg.
        result = make_video(plan, upscaler, job.result, restart=True, style="none", make=make)
        job.seconds = result.seconds
        self._metrics.megapixels((result.frames - result.resumed) * size[0] * size[1])
        if result.damaged:
            job.notes += (f"{len(result.damaged)} frames could not be decoded ({job.order.options.on_error})",)

    def _stepper(self, job: ClipJob) -> Callable[[int], None]:
        def step(_: int) -> None:
            until = time.monotonic() + PATIENCE
            while True:
                if self._is_closed or job.stopped.is_set():
                    raise StoppedError(499, "the work was cancelled")
                if not self._is_busy() or time.monotonic() > until:
                    return
                time.sleep(PAUSE)

        return step

    def _end(self, job: ClipJob, error: Exception | None) -> None:
        with self._lock:
            if error is None:
                job.status = "done"
            elif isinstance(error, StoppedError):
                job.status = "cancelled"
            else:
                if not isinstance(error, HiifError | RequestError):
                    logger.error("clip %s", job.id, exc_info=error)
                job.fail(error)
            job.monitor = None
            try:
                job.save()
                self._make_room(0, keep=job)
            except (OSError, RequestError) as failure:
                logger.warning("clip %s: %s", job.id, failure)
                self._unsaved[job.id] = job
            self._runs.pop(job.id).held.close()

    def _make_room(self, needed: int, keep: ClipJob | None = None) -> None:
        """Remove the oldest clips that are over, for `needed` bytes. RequestError 503 or 507 without room."""
        with self._lock:
            jobs = self._all()
            over = [job for job in jobs if job.is_over and (keep is None or job.id != keep.id)]
            total = needed + sum(job.bytes for job in jobs)
            while over and (len(over) > self._limits.kept_clips or total > self._limits.clips_bytes):
                oldest = over.pop(0)
                size = oldest.bytes
                with contextlib.suppress(RequestError):
                    self._drop(oldest)
                    total -= size
        if total > self._limits.clips_bytes:
            raise RequestError(503, "clips that wait need all of this server's disk; try again later")
        if needed > shutil.disk_usage(self.folder).free:
            raise RequestError(507, f"it may take {needed >> 20} MiB, and the server's disk has less")

    def _drop(self, job: ClipJob) -> None:
        """Remove a clip that is over. RequestError as `_hold`; 409 where it was started meanwhile."""
        with contextlib.ExitStack() as held:
            if not self._hold(job, held).is_over:
                raise RequestError(409, "the clip was started meanwhile")
            self._unsaved.pop(job.id, None)
            shutil.rmtree(job.folder, ignore_errors=True)

    def _all(self) -> list[ClipJob]:
        """Return all clips of the folder, the oldest first."""
        paths = (path for path in list_folder(self.folder) if ID.fullmatch(path.name))
        found = (ClipJob.load(path) for path in paths)
        return sorted((job for job in found if job is not None), key=lambda job: job.created)

    def _adopt(self) -> None:
        """Go on with the clips of an earlier run, and remove what it left of one that was not planned yet."""
        for path in list_folder(self.folder):
            with contextlib.suppress(OSError):  # Another server may have removed it.
                is_old = time.time() - path.stat().st_mtime > self._limits.seconds
                if ID.fullmatch(path.name) and ClipJob.load(path) is None and is_old:
                    shutil.rmtree(path, ignore_errors=True)
        with self._lock:
            for job in self._all():
                self._resume(job)


def _notes(plan: ClipPlan, folder: Path, name: str) -> tuple[str, ...]:
    return tuple(without_paths(note, folder, name) for note in plan.video.notes)


@contextlib.contextmanager
def _without_paths(folder: Path, name: str) -> Iterator[None]:
    """Raise errors about a clip's files with the name that its client knows."""
    try:
        yield
    except (VideoError, OptionError) as error:
        raise type(error)(without_paths(str(error), folder, name)) from error.__cause__
