"""`hiif-deploy upscale --ray`: opens a pool of workers for one command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hiif_deploy.cluster.pool import ClusterOptions, Pool
from hiif_deploy.errors import OptionError
from hiif_deploy.upscaler import Upscaler

logger = logging.getLogger(__name__)


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
