"""A pool of workers on a Ray cluster: each worker runs one job at a time, and a lost worker's job is repeated."""

import logging
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from hiif_deploy.backends.choice import runs_on_gpu
from hiif_deploy.backends.engines import AUTO, ENGINES
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.cluster.worker import Worker, WorkerInfo, versions
from hiif_deploy.errors import ClusterError, HiifError, OptionError
from hiif_deploy.support.durations import duration
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.signals import keep_sigterm
from hiif_deploy.upscaler import RenderOptions, Upscaler

logger = logging.getLogger(__name__)
LOCAL = "local"
"""The address that starts a cluster of this machine alone."""
ATTEMPTS = 3
"""Number of attempts after which a job fails."""
WORKER_TIMEOUT_S = 300.0
"""Seconds without any worker after which the work fails."""
NOTICE = 30.0
"""Seconds between two warnings while waiting for a worker."""
JOIN_TIMEOUT = 30.0
"""Seconds within which a cluster must respond before it is joined."""
CLOSING = 5.0
"""Seconds that workers get for cleaning up."""
TICK = 1.0
"""Seconds between two checks of the clock."""


@dataclass(frozen=True)
class ClusterOptions:
    """Address of the cluster, and how it is shared."""

    address: str = LOCAL
    """`local`, `auto` for the cluster that this machine belongs to, or `host:port` of a head node."""
    workers: int = 0
    """Maximum number of workers; 0 uses the whole cluster."""
    attempts: int = ATTEMPTS
    """Number of attempts after which a job fails."""

    def __post_init__(self) -> None:
        if not self.address.strip():
            raise OptionError("--ray: expected local, auto or host:port of a head node")
        if "://" in self.address:
            # Ray Client runs the driver elsewhere: whether such an address responds cannot be checked in bounded time.
            raise OptionError(
                f"--ray {self.address}: addresses of Ray Client are not supported; expected local, auto or host:port "
                "of a head node (its own port, usually 6379), on a machine that belongs to the cluster"
            )
        if self.workers < 0:
            raise OptionError(f"--workers {self.workers}: expected 0 (all that the cluster holds) or more")
        if self.attempts < 1:
            raise OptionError(f"{self.attempts} attempts: expected at least 1")


@dataclass(frozen=True)
class ClusterJob:
    """A call of a worker's method."""

    name: str
    """Unique name for messages, such as `segment 7`."""
    method: str
    """Name of the method of `Worker`."""
    arguments: Callable[[], tuple[Any, ...]]
    """Returns the arguments that are pickled and sent; called for each attempt."""


@dataclass(frozen=True)
class Share:
    """Resources of each worker, and the number of workers."""

    workers: int
    """Number of workers in the pool."""
    processors: int
    """Number of processors of each worker."""
    gpus: int
    """GPUs of each worker: 0 or 1."""


class Pool:
    """Workers with the same model. A context manager that ends them, and the cluster if it started it."""

    def __init__(self, bundle: Bundle, options: ClusterOptions, engine: EngineOptions, render: RenderOptions) -> None:
        """Join or start the cluster. MissingExtraError without Ray, ClusterError where it cannot be reached."""
        require_extra("ray")
        import ray

        self._ray, self._options = ray, options
        self._is_own = not ray.is_initialized()
        if self._is_own:
            with keep_sigterm():
                _join(ray, options.address)
        try:
            self.share = share_of(ray.nodes(), engine, options.workers)
            self._engine = replace(engine, threads=self.share.processors) if self.share.gpus == 0 else engine
            # An object is copied once to each node, however many workers it has.
            self._model = (ray.put(bundle), ray.put(self._engine), ray.put(render))
        except BaseException:
            self._leave()
            raise
        self._actors: dict[Any, WorkerInfo | None] = {}
        self._starting: dict[Any, Any] = {}
        self._idle: deque[Any] = deque()
        self._failed_starts = 0
        self._next_notice = NOTICE

    def __enter__(self) -> Self:
        for _ in range(self.share.workers):
            self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        closing = [actor.close.remote() for actor, info in self._actors.items() if info is not None]
        if closing:
            # After an error some are still busy, and would not respond in time.
            self._ray.wait(closing, num_returns=len(closing), timeout=CLOSING if kind is None else TICK)
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()
        self._leave()

    def put(self, data: bytes) -> Any:
        """Store bytes in the cluster for all workers and return a reference; they are freed with the reference."""
        return self._ray.put(data)

    @property
    def worker_infos(self) -> list[WorkerInfo]:
        """Descriptions of the workers that are ready."""
        return [info for info in self._actors.values() if info is not None]

    def wait_for(self, workers: int) -> None:
        """Wait until that many workers have opened their models. Raises the errors of `run`."""
        while len(self.worker_infos) < workers:
            done, _ = self._ray.wait([*self._starting], num_returns=1, timeout=TICK)
            for call in done:
                self._started(call)

    def run(self, jobs: deque[ClusterJob]) -> Iterator[tuple[ClusterJob, Any]]:
        """Yield each job and its result as they finish. More jobs may be appended to `jobs` meanwhile.

        A job whose worker was lost is repeated on another. ClusterError where that happened too often, or no worker is
        available; an exception of the job itself is raised.
        """
        busy: dict[Any, tuple[Any, ClusterJob]] = {}
        tries: Counter[str] = Counter()
        last_sign = time.monotonic()
        while True:
            while self._idle and jobs:
                actor, job = self._idle.popleft(), jobs.popleft()
                tries[job.name] += 1
                busy[getattr(actor, job.method).remote(*job.arguments())] = (actor, job)
            if not busy and not jobs:
                return
            done, _ = self._ray.wait([*busy, *self._starting], num_returns=1, timeout=TICK)
            last_sign = time.monotonic() if done or busy else last_sign
            self._check_timeout(last_sign)
            for call in done:
                if call in self._starting:
                    self._started(call)
                    continue
                actor, job = busy.pop(call)
                try:
                    result = self._ray.get(call)
                except self._ray.exceptions.RayError as error:
                    self._lost(actor, job, error, tries[job.name])
                    jobs.appendleft(job)
                else:
                    self._idle.append(actor)
                    del tries[job.name]
                    yield job, result

    def _start(self) -> None:
        actor_class = self._ray.remote(Worker)
        actor = actor_class.options(num_cpus=self.share.processors, num_gpus=self.share.gpus).remote()
        self._actors[actor] = None
        self._starting[actor.open.remote(*self._model)] = actor

    def _started(self, call: Any) -> None:
        actor = self._starting.pop(call)
        try:
            info = self._ray.get(call)
            self._check_versions(info)
            self._actors[actor] = info
        except self._ray.exceptions.RayError as error:
            self._raise_own(error)
            self._failed_starts += 1
            if self._failed_starts >= self._options.attempts:
                raise ClusterError(f"{self._failed_starts} workers could not start: {_reason(error)}") from error
            self._replace(actor, f"a worker could not start ({_reason(error)}); another one is started")
        else:
            self._failed_starts = 0
            self._idle.append(actor)

    def _lost(self, actor: Any, job: ClusterJob, error: Exception, tries: int) -> None:
        """Replace the worker; ClusterError where the job has used all its attempts."""
        self._raise_own(error)
        info = self._actors[actor]
        where = f"worker {info.process} on {info.node}" if info else "a worker"
        if tries >= self._options.attempts:
            raise ClusterError(f"{job.name}: given up after {tries} attempts, the last on {where} ({_reason(error)})")
        self._replace(actor, f"{job.name}: {where} was lost ({_reason(error)}); it is repeated on another worker")

    def _replace(self, actor: Any, sentence: str) -> None:
        logger.warning(sentence)
        del self._actors[actor]
        # It may only be unreachable: it must not keep running beside its replacement.
        self._ray.kill(actor)
        self._start()

    def _raise_own(self, error: Exception) -> None:
        """Raise exceptions of the work itself, which are no loss of a worker; a node's own failure, such as a full
        disk, is."""
        cause = getattr(error, "cause", None)
        if isinstance(error, self._ray.exceptions.RayTaskError) and not isinstance(cause, OSError | MemoryError):
            raise (cause if isinstance(cause, HiifError) else error)

    def _check_versions(self, info: WorkerInfo) -> None:
        here = versions()
        other = [f"{n} {info.versions.get(n)}, here {v}" for n, v in here.items() if info.versions.get(n) != v]
        if other:
            raise ClusterError(
                f"{info.node} has {'; '.join(other)}: results would differ; install the same versions everywhere"
            )

    def _check_timeout(self, last_sign: float) -> None:
        waited = time.monotonic() - last_sign
        if waited > WORKER_TIMEOUT_S:
            raise ClusterError(
                f"no worker was available for {duration(WORKER_TIMEOUT_S)}, each needs "
                f"{self.share.processors} processors and {self.share.gpus} GPUs; list free resources with: ray status"
            )
        if waited < TICK:
            self._next_notice = NOTICE
        elif waited > self._next_notice:
            self._next_notice += NOTICE
            logger.warning("waiting for a worker since %s", duration(waited))

    def _leave(self) -> None:
        if self._is_own:
            self._ray.shutdown()


@contextmanager
def open_pool(address: str | None, workers: int, upscaler: Upscaler, *, is_plan: bool = False) -> Iterator[Pool | None]:
    """Open workers with the upscaler's model and options; yield None without an address, and for a plan.

    Raises the errors of `Pool`.
    """
    if address is None and workers:
        raise OptionError(f"--workers {workers}: needs a cluster; add --ray local, auto or HOST:PORT")
    if address is None or is_plan:
        yield None
        return
    with Pool(upscaler.bundle, ClusterOptions(address, workers), upscaler.engine, upscaler.options) as pool:
        share = pool.share
        each = f"{share.gpus} GPU" if share.gpus else f"{share.processors} processors"
        logger.info("ray %s: %d workers of %s", address, share.workers, each)
        yield pool


def share_of(nodes: list[dict[str, Any]], engine: EngineOptions, most: int) -> Share:
    """Return one worker per GPU where the engine runs on one; else one per `engine.threads` processors of each node.

    Without `threads` the smallest node is one worker. `nodes` is the output of `ray.nodes()`. ClusterError for none.
    """
    if engine.engine == AUTO:
        raise OptionError(
            "--ray: nodes may choose differently, so name the engine: --engine onnxruntime or tensorrt (for bf16 and "
            "int8 openvino or native)"
        )
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    processors = [int(found.get("CPU", 0)) for found in alive if found.get("CPU", 0) >= 1]
    if ENGINES[engine.engine].gpu == "device" and engine.device not in ("cuda", "cpu"):
        raise OptionError(f"--device {engine.device}: Ray gives each worker a GPU of its own; expected cuda")
    if runs_on_gpu(engine):
        workers, share = sum(int(found.get("GPU", 0)) for found in alive), Share(0, 1, 1)
    else:
        size = engine.threads or min(processors, default=1)
        workers, share = sum(count // size for count in processors), Share(0, size, 0)
    if workers == 0:
        wanted = "a GPU" if share.gpus else f"{share.processors} processors"
        raise ClusterError(f"no node of the cluster has {wanted}: it has {alive}")
    return replace(share, workers=min(workers, most or workers))


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Join the cluster, or start one of this machine, within the block. Raises the errors of `Pool`."""
    import ray

    options = ClusterOptions(address)
    with keep_sigterm():
        _join(ray, options.address)
    try:
        yield
    finally:
        ray.shutdown()


def _join(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            # Without an address Ray would join the cluster of RAY_ADDRESS or of the last `ray start`, stale or foreign.
            ray.init(address=LOCAL, **quiet, include_dashboard=False)
        else:
            _check_response(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"--ray {address}: no cluster can be reached there ({error}); start one with: ray start --head"
        ) from error


def _check_response(address: str) -> None:
    """Raise OSError where no cluster responds: Ray itself would try for minutes, printing errors of its connections."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CLOSING).close()
    # A process of its own, which can be ended: Ray's attempts cannot.
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=JOIN_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        where = " of RAY_ADDRESS or of the last ray start" if address == "auto" else ""
        raise ConnectionError(f"the cluster{where} did not respond within {duration(JOIN_TIMEOUT)}") from error
    if found.returncode:
        lines = found.stderr.strip().splitlines() or ["ray status failed without a message"]
        raise ConnectionError(lines[-1].strip())


def _reason(error: Exception) -> str:
    """Return the first line of Ray's explanation, or the error of the work."""
    cause = getattr(error, "cause", None)
    text = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
    return text.strip().partition("\n")[0].rstrip(".")[:200]
