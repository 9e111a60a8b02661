"""Computes the segments of a video on a pool of workers: the same files as on one machine, as they finish."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hiif_deploy.cluster.pool import ClusterJob, Pool
from hiif_deploy.cluster.worker import FileMark
from hiif_deploy.support.files import write_file
from hiif_deploy.video.monitor import Monitor
from hiif_deploy.video.task import Segment, SegmentTask

PART = 64 << 20
"""Bytes of a clip that are sent as one object."""


class SentClip:
    """A clip that some worker cannot read under its path: its bytes are stored in the cluster once."""

    def __init__(self, pool: Pool, path: Path) -> None:
        self.path = path
        self.mark = FileMark.of(path)
        self.parts: list[Any] | None = None
        self._pool = pool

    def send(self, part: int) -> None:
        """Store the clip in objects of `part` bytes, unless it is stored already. Raises OSError."""
        if self.parts is None:
            with self.path.open("rb") as file:
                self.parts = [self._pool.put(data) for data in iter(partial(file.read, part), b"")]


def make_segments_on(
    pool: Pool, tasks: Sequence[SegmentTask], folder: Path, monitor: Monitor, *, part: int = PART
) -> Iterator[Segment]:
    """Compute segments on a cluster, as `MakeSegments` without `pool`: each file is complete in `folder` before its
    segment is yielded.

    Segments are yielded as they finish. Raises VideoError, ClusterError, OSError where the disk is full.
    """
    clips: dict[Path, SentClip] = {}
    jobs: deque[ClusterJob] = deque()
    wanted: dict[str, tuple[SegmentTask, SentClip]] = {}
    for task in tasks:
        if task.clip not in clips:
            clips[task.clip] = SentClip(pool, task.clip)
        clip = clips[task.clip]
        job = ClusterJob(f"segment {task.number}", "segment", partial(_arguments, task, clip))
        wanted[job.name] = task, clip
        jobs.append(job)
    for job, result in pool.run(jobs):
        task, clip = wanted[job.name]
        if result is None:
            clip.send(part)
            jobs.appendleft(job)
            continue
        segment, data = result
        write_file(folder / task.file_name, data)
        monitor.advance(len(task.times))
        yield segment


def _arguments(task: SegmentTask, clip: SentClip) -> tuple[Any, ...]:
    # The worker has another current folder, so the path must be absolute.
    return replace(task, clip=task.clip.absolute()), clip.mark, clip.parts
