"""How time and memory grow with the scale and with the picture: both should be linear, memory bounded."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hiif_deploy.bench.case import BenchModel, Runner, picture
from hiif_deploy.bench.run import Bench, Report, memory_of, open_runners
from hiif_deploy.geometry.sizes import Size, output_size

Series = Literal["scale", "picture"]
SCALES = (1.5, 2.0, 3.0, 4.0, 6.0)
"""Of the given picture."""
SIDES = (0.25, 0.5, 1.0, 2.0)
"""Parts of the given picture's sides, all enlarged by `PICTURE_SCALE`."""
PICTURE_SCALE = 2.0
MAX_PLAIN_QUERIES = 1 << 17
"""Queries beyond which the plain module is left out: it needs some 18 KB for each."""


@dataclass(frozen=True)
class Point:
    """One variant on one picture."""

    model: str
    """Its name."""
    series: Series
    """What grows from point to point."""
    variant: str
    """Its name."""
    source: Size
    """(height, width) of the input."""
    scale: float
    """Enlargement of each side."""
    queries: int
    """Output pixels."""
    median_s: float
    """Seconds per picture."""
    peak_rss_mb: float | None
    """Peak resident memory of a process that does only this, MiB."""
    working_mb: float | None
    """The part of it above what was held before."""


@dataclass(frozen=True)
class Growth:
    """Line that the points of one variant and series lie on."""

    model: str
    """Its name."""
    series: Series
    """What grows."""
    variant: str
    """Its name."""
    exponent: float
    """p of time ~ queries^p: 1 is linear."""
    mb_per_megapixel: float | None
    """MiB of peak memory for each further million output pixels; None where memory was not measured."""


def run_sweep(
    models: Sequence[BenchModel], bench: Bench, report: Report, advance: Callable[[int], None] = lambda _: None
) -> list[Point]:
    """Every variant on every point; `bench.scales` is not looked at."""
    found = []
    for model in models:
        with ExitStack() as stack:
            runners = open_runners(model, bench, report, stack)
            for series, source, scale in points(bench.source):
                size = output_size(source, scale=scale)
                for name, runner in runners.items():
                    if name != "plain" or size[0] * size[1] <= MAX_PLAIN_QUERIES:
                        memory = memory_of(runner.resolved, model, bench, source, size, report)
                        peak, working = (memory.peak_mb, memory.working_mb) if memory else (None, None)
                        seconds, queries = _median(runner, source, size, bench.rounds), size[0] * size[1]
                        found.append(Point(model.name, series, name, source, scale, queries, seconds, peak, working))
                    advance(1)
    return found


def points(source: Size) -> Iterator[tuple[Series, Size, float]]:
    """(series, source, scale) of each, the growing sizes in order."""
    for scale in SCALES:
        yield "scale", source, scale
    for side in SIDES:
        yield "picture", (max(1, round(side * source[0])), max(1, round(side * source[1]))), PICTURE_SCALE


def sweep_steps(bench: Bench) -> int:
    """Number of steps that `run_sweep` reports for one model."""
    return len(bench.variants) * (len(SCALES) + len(SIDES))


def growth(found: Sequence[Point]) -> list[Growth]:
    """Straight lines through the points of each variant and series that has at least two."""
    groups: dict[tuple[str, Series, str], list[Point]] = {}
    for point in found:
        groups.setdefault((point.model, point.series, point.variant), []).append(point)
    return [Growth(*key, *_fit(group)) for key, group in groups.items() if len(group) > 1]


def _fit(group: Sequence[Point]) -> tuple[float, float | None]:
    queries = np.array([point.queries for point in group], dtype=np.float64)
    exponent, _ = np.polyfit(np.log(queries), np.log([point.median_s for point in group]), 1)
    peaks = [point.peak_rss_mb for point in group if point.peak_rss_mb is not None]
    slope = float(np.polyfit(queries / 1e6, peaks, 1)[0]) if len(peaks) == len(group) else None
    return float(exponent), slope


def _median(runner: Runner, source: Size, size: Size, rounds: int) -> float:
    image, seconds = picture(source), []
    runner.upscale(image, size)
    for _ in range(rounds):
        began = time.perf_counter()
        runner.upscale(image, size)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
