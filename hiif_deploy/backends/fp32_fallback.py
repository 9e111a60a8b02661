"""Blocks of queries whose answer is no number are answered again, in fp32 on the processor."""

from __future__ import annotations

import logging
import threading

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.base import Encoded
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.job import Job, Statistics, Sums, Window
from hiif_deploy.decoding.output_check import MOST_COLOUR, check_values
from hiif_deploy.decoding.plan import make_plan
from hiif_deploy.decoding.session import Tensors

logger = logging.getLogger(__name__)
Array = NDArray[np.float32]


class Rescue:
    """The fp32 graphs on ONNX Runtime, loaded when first needed, with a warning. Counts every block."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._bundle, self._threads = bundle, threads
        self._host: HostBackend | None = None
        self._last: tuple[Array, Encoded] | None = None
        self._lock = threading.Lock()
        self.count = 0
        """Blocks answered so far."""

    def colours(self, job: Job, window: Window, statistics: Statistics) -> Array:
        """Finished colours [r, c, 3] of the window, from the picture itself.

        NotAPictureError where fp32 gives no numbers either.
        """
        found = np.empty((*window.shape, 3), dtype=np.float32)
        with self._lock:
            host = self._open()
            for rows, columns, colours in host.colours(self._job(host, job), window, statistics, _ignore):
                found[rows, columns] = colours
        check_values(found, f"bundle {self._bundle.contract.name} in fp32", MOST_COLOUR)
        return found

    def sums(self, job: Job, window: Window, folded: Tensors, n: int) -> Sums:
        """What statistics pass `n` sums up over the window."""
        with self._lock:
            host = self._open()
            return host.decoder.sums(self._job(host, job), window, folded, n, _ignore)

    def close(self) -> None:
        """End its threads."""
        if self._host is not None:
            self._host.close()

    def _open(self) -> HostBackend:
        self.count += 1
        if self._host is None:
            logger.warning(
                "half precision gave values that are no numbers; such blocks are decoded again in fp32, slowly"
            )
            self._host = HostBackend(self._bundle, EngineOptions(threads=self._threads))
        return self._host

    def _job(self, host: HostBackend, job: Job) -> Job:
        """The same question to the fp32 graphs; the last picture's features are kept."""
        plan = make_plan(self._bundle.contract, job.source, threads=self._threads)
        if self._last is None or self._last[0] is not job.image:
            self._last = (job.image, host.encode(job.image, plan, _ignore))
        return Job(job.contract, self._last[1], job.image, job.size, plan, job.cell, job.sampling)


def _ignore(_: int) -> None:
    """Rescues are not part of the progress."""
