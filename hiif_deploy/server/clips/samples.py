"""Frames of a clip as pictures, which the page shows before and after."""

import contextlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from hiif_deploy.errors import VideoError
from hiif_deploy.images.io import write_image
from hiif_deploy.images.picture import Picture
from hiif_deploy.video.convert import RgbFrame
from hiif_deploy.video.frames import task_frames
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import VideoPlan, segment_task
from hiif_deploy.video.probe import Clip

COUNT = 12
"""Frames of a clip at most."""
MAX_RUN = 256
"""Frames after a key frame that are decoded at most to reach a sample."""


def write_samples(plan: VideoPlan, folder: Path) -> None:
    """Write frames from all over the clip into `folder`, upright, without those that cannot be decoded."""
    for number, pixels in _frames(plan, sample_numbers(plan.clip)):
        write_image(folder / f"{number:06d}.png", Picture(np.rot90(pixels, _turns(plan.clip.matrix)).copy()))


def sample_numbers(clip: Clip) -> list[int]:
    """Return the numbers of the frames, ascending: key frames where they are near, which need no others decoded."""
    count = min(COUNT, clip.count)
    even = (clip.count * (2 * place + 1) // (2 * count) for place in range(count))
    found = set()
    for number in even:
        key = clip.keys[bisect_right(clip.keys, number) - 1]
        is_near = number - key < clip.count / (2 * count)
        found.add(key if is_near or number - key > MAX_RUN else number)
    return sorted(found)


def _frames(plan: VideoPlan, numbers: list[int]) -> Iterator[tuple[int, RgbFrame]]:
    clip, options = plan.clip, VideoOptions(on_error="repeat")
    for _, group in groupby(numbers, key=lambda number: bisect_right(clip.keys, number)):
        wanted = list(group)
        task = segment_task(clip, plan.encoding, options, 0, wanted[0], wanted[-1] + 1)
        with contextlib.suppress(VideoError):
            for source in task_frames(task):
                if source.number in wanted and source.picture is not None:
                    yield source.number, source.picture


def _turns(matrix: tuple[int, ...]) -> int:
    """Return how many quarters players turn the frames anticlockwise, by FFmpeg's display matrix."""
    if not matrix:
        return 0
    return (2 if matrix[0] < 0 else 0) if matrix[0] else (1 if matrix[1] < 0 else 3)
