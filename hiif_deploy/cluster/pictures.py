"""Upscales pictures on a pool of workers. They are sent as their files' bytes, so no folder need be shared."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from hiif_deploy.cluster.pool import ClusterJob, Pool
from hiif_deploy.errors import ImageError
from hiif_deploy.geometry.target import Target
from hiif_deploy.pictures.batch import Outcome, WriteOptions
from hiif_deploy.pictures.items import Item
from hiif_deploy.support.files import write_file
from hiif_deploy.support.progress import Progress


def run_batch_on(
    pool: Pool, items: Sequence[Item], target: Target, options: WriteOptions, *, show_progress: bool = False
) -> Iterator[Outcome]:
    """Upscale items on a cluster as `batch.run_batch` does; yield outcomes as they finish. ClusterError where workers
    fail."""
    jobs: deque[ClusterJob] = deque()
    wanted: dict[str, Item] = {}
    for item in items:
        if item.target.exists() and not options.overwrite:
            yield Outcome(str(item.source), str(item.target), "skipped", notes=("exists; --overwrite makes it again",))
        elif not (item.source.is_file() and os.access(item.source, os.R_OK)):
            error = f"{item.source}: no such file, no regular one, or it cannot be read"
            yield Outcome(str(item.source), str(item.target), "failed", error=error, exit_code=ImageError.exit_code)
        else:
            job = ClusterJob(str(item.source), "picture", partial(_arguments, item, target, options))
            wanted[job.name] = item
            jobs.append(job)
    with Progress("pictures", len(jobs), unit="pictures", enabled=show_progress and bool(jobs)) as progress:
        for job, (outcome, data) in pool.run(jobs):
            if data is not None:
                wanted[job.name].target.parent.mkdir(parents=True, exist_ok=True)
                write_file(wanted[job.name].target, data)
            progress.advance()
            yield outcome


def _arguments(item: Item, target: Target, options: WriteOptions) -> tuple[Any, ...]:
    return item, item.source.read_bytes(), target, options
