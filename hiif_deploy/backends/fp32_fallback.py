"""Recomputes blocks of queries that overflowed in fp16, with the fp32 graphs on the processor."""

import logging
import threading
import weakref
from dataclasses import replace
from typing import Any

import numpy as np

from hiif_deploy.backends.base import Encoded
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import ON_HOST
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.job import Job, Statistics, Sums, Window, ignore
from hiif_deploy.decoding.plan import PlanLimits
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.pixels import Frame

logger = logging.getLogger(__name__)


class Fp32Fallback:
    """The fp32 graphs on ONNX Runtime, loaded when they are first needed. Warns once, counts every block."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._bundle, self._threads = bundle, threads
        self._host: HostBackend | None = None
        self._last: tuple[weakref.ref[Any], Encoded] | None = None
        self._lock = threading.Lock()
        self.count = 0
        """Blocks recomputed so far."""

    def values(self, job: Job, window: Window, statistics: Statistics) -> Frame:
        """[r, c, 1 or 3] of the window, of the job's frame type. NotAPictureError where fp32 gives none either."""
        values: Frame = np.empty((*window.shape, job.frame.shape[2]), job.frame.dtype)
        with self._lock:
            host = self._open()
            for rows, columns, part in host.frames(self._job(host, job), window, statistics):
                values[rows, columns] = part
        return values

    def sums(self, job: Job, window: Window, folded: Tensors, n: int) -> Sums:
        """Sums of statistics pass `n` over the window."""
        with self._lock:
            host = self._open()
            return host.decoder.sums(self._job(host, job), window, folded, n)

    def close(self) -> None:
        """End the threads of the fp32 engine."""
        if self._host is not None:
            self._host.close()

    def _open(self) -> HostBackend:
        self.count += 1
        if self._host is None:
            logger.warning("fp16 produced NaN or Inf; recomputing those blocks in fp32 (slower)")
            self._host = HostBackend(self._bundle, replace(ON_HOST, threads=self._threads))
        return self._host

    def _job(self, host: HostBackend, job: Job) -> Job:
        """The job for the fp32 graphs; the last picture's features are kept."""
        plan = host.plan(job.source, PlanLimits())
        # Weakly: features on a GPU are not kept there for the sake of a fallback.
        if self._last is None or self._last[0]() is not job.features:
            self._last = (weakref.ref(job.features), host.encode(job.frame, plan, ignore))
        return Job(job.contract, self._last[1], job.frame, job.size, plan, job.cell, job.sampling, clamps=job.clamps)
