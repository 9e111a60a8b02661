"""Engines against each other on one picture, in one process, taking turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle import Bundle
from hiif_deploy.demo import sample
from hiif_deploy.session import EngineOptions
from hiif_deploy.sizes import Size
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.verify import measure

Array = NDArray[np.float32]
STAGES = ("encode", "statistics", "colours")


@dataclass(frozen=True)
class Result:
    """One engine, measured. Times are of whole pictures on the host, from frame to frame."""

    variant: str
    """Engine, precision and device."""
    source: Size
    """(height, width) of the input."""
    scale: float
    """Enlargement of each side."""
    median_s: float
    """Seconds per picture."""
    quartiles_s: tuple[float, float]
    """First and third quartile."""
    ratio: float
    """Median of the first engine by this one's: higher is faster."""
    stages_s: dict[str, float]
    """Median seconds of encode, statistics and colours (the last with the host's share)."""
    psnr_db: float
    """Against fp32 on the processor, before rounding to 8 bits; at most 200."""
    rescued_blocks: int
    """Blocks that half precision could not answer."""


def run_bench(
    bundle: Bundle, engines: Sequence[EngineOptions], source: Size, scale: float, rounds: int,
    advance: Callable[[int], None],
) -> list[Result]:  # fmt: skip
    """Warm every engine up, then let them take turns. `advance` is told of each finished picture."""
    height, width = source
    image = np.asarray(cv2.resize(sample("astronaut"), (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    size = (round(height * scale), round(width * scale))
    expected = _reference(bundle, image, size)
    opened = [Upscaler(bundle, engine=options) for options in engines]
    try:
        times: list[list[list[float]]] = [[] for _ in opened]
        answers = [_timed(upscaler, image, size)[1] for upscaler in opened]
        for _ in range(rounds):
            for upscaler, found in zip(opened, times, strict=True):
                found.append(_timed(upscaler, image, size)[0])
                advance(1)
        first = statistics.median(sum(stages) for stages in times[0])
        return [
            _summarise(upscaler, source, scale, found, first, measure(answer, expected).psnr)
            for upscaler, found, answer in zip(opened, times, answers, strict=True)
        ]
    finally:
        for upscaler in opened:
            upscaler.close()


def facts(results: Sequence[Result]) -> dict[str, object]:
    """As JSON."""
    return {"results": [asdict(result) for result in results]}


def _reference(bundle: Bundle, image: NDArray[np.uint8], size: Size) -> Array:
    with Upscaler(bundle) as upscaler:
        return upscaler.render_unclamped(upscaler.encode(image), size=size)


def _timed(upscaler: Upscaler, image: NDArray[np.uint8], size: Size) -> tuple[list[float], Array]:
    """Seconds of each stage, and the unclamped answer. Work that is only queued counts where it is waited for."""
    marks = [time.perf_counter()]
    features = upscaler.encode(image)
    marks.append(time.perf_counter())
    found = upscaler.statistics(features, size)
    marks.append(time.perf_counter())
    answer = upscaler.render_unclamped(features, size=size, statistics=found)
    marks.append(time.perf_counter())
    return [after - before for before, after in pairwise(marks)], answer


def _summarise(
    upscaler: Upscaler, source: Size, scale: float, times: list[list[float]], first: float, psnr: float
) -> Result:
    totals = sorted(sum(stages) for stages in times)
    median = statistics.median(totals)
    low, high = (float(np.quantile(totals, share)) for share in (0.25, 0.75))
    stages = {name: statistics.median(t[n] for t in times) for n, name in enumerate(STAGES)}
    return Result(
        upscaler.description, source, scale, median, (low, high), first / median, stages, psnr, upscaler.rescued
    )
