"""One model at one scale: every variant in turn, round after round."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.options import EngineOptions, IsaName
from hiif_deploy.bench.case import BenchModel, Runner, Work, picture
from hiif_deploy.bench.isa_peak import IsaMeter
from hiif_deploy.bench.memory import Memory, measure_memory
from hiif_deploy.bench.variants import BASELINES, NATIVE, REFERENCE, SETTINGS, open_variant, runs_native
from hiif_deploy.errors import HiifError, OptionError
from hiif_deploy.geometry.sizes import Size, output_size
from hiif_deploy.rendering.verify import measure

PAUSE = 0.2
"""Seconds before each timed picture: threads of the engine before keep spinning for a while, at this one's expense."""
NO_CHECKPOINT = "no checkpoint was given, so PyTorch ran random weights, and the deviation from float64 is unknown"


@dataclass(frozen=True)
class Bench:
    """Variants, scales and rounds of a bench run."""

    variants: tuple[str, ...]
    """Names, in the order of each round."""
    scales: tuple[float, ...]
    """Enlargements of each side."""
    source: Size
    """(height, width) of the picture."""
    rounds: int = 5
    """Timed pictures per variant and scale, after one to warm up."""
    threads: int = 0
    """Processor threads of every variant; 0: all that this process may use."""
    with_memory: bool = True
    """Measure peak memory, in a process of its own for each variant."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """What a variant ENGINE:PRECISION leaves open."""
    isa: IsaName | None = None
    """Instruction set of the variants that run as native code; None: the fastest of this processor."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise OptionError(f"--rounds {self.rounds}: expected at least 1")
        if not self.variants or not self.scales:
            raise OptionError("nothing to measure: name at least one variant and one scale")
        if self.isa is not None and not any(map(runs_native, self.variants)):
            names = ", ".join((*NATIVE, "native"))
            raise OptionError(f"--isa {self.isa}: none of the variants runs as native code; name one of {names}")

    @property
    def thread_count(self) -> int:
        """`threads`, or what the machine grants."""
        return EngineOptions(threads=self.threads).thread_count

    def steps(self) -> int:
        """Number of steps that `run_bench` reports for one model."""
        return len(self.scales) * len(self.variants) * (self.rounds + 2)


@dataclass(frozen=True)
class Result:
    """One variant at one scale. Times are of whole pictures, encoder included, from frame to frame."""

    model: str
    """Its name."""
    variant: str
    """Its name."""
    detail: str
    """Engine, precision, chunk size."""
    source: Size
    """(height, width) of the input."""
    scale: float
    """Enlargement of each side."""
    size: Size
    """(height, width) of the output."""
    median_s: float
    """Seconds per picture."""
    quartiles_s: tuple[float, float]
    """First and third quartile."""
    seconds: tuple[float, ...]
    """Each round."""
    ratio: float | None
    """Median of `plain` by this one's: higher is faster. None where `plain` was not measured."""
    ratios: Mapping[str, float]
    """The same for each baseline measured; where there is none, for the first variant."""
    stages_s: Mapping[str, float]
    """Median seconds of each stage."""
    psnr_db: float | None
    """Against the plain module in float64, before rounding to 8 bits; at most 200. None: see the run's notes."""
    exact_db: float | None
    """The same against `exact`; None where that was not measured, or this one ran random weights."""
    macs_per_query: float | None
    """Counted multiplications of the whole picture, encoder included, by its output pixels."""
    bytes_per_query: float | None
    """Likewise bytes that operations read and write."""
    gflops: float | None
    """Twice the multiplications by the median time."""
    gemm_share: float | None
    """That by the machine's peak in this arithmetic."""
    peak_rss_mb: float | None
    """Peak resident memory of a process that does only this, MiB."""
    working_mb: float | None
    """The part of it above what was held before the picture came."""
    fallback_blocks: int
    """Blocks that overflowed in half precision."""
    isa: IsaName | None = None
    """Instruction set of native code; None where a library chooses."""
    isa_share: float | None = None
    """`gflops` by the peak of a product in this arithmetic that is limited to `isa`."""


@dataclass
class Report:
    """Results of one bench run."""

    results: list[Result] = field(default_factory=list)
    """By model, scale and variant."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """What was not measured → why."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures must know."""
    gemm: dict[str, Any] = field(default_factory=dict)
    """ComputePrecision → the machine's peak."""

    def facts(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self)


def run_bench(
    models: Sequence[BenchModel], bench: Bench, report: Report, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Measure all of it into `report`. A variant that cannot be had is left out and named there."""
    for model in models:
        with ExitStack() as stack:
            runners = open_runners(model, bench, report, stack)
            advance((len(bench.variants) - len(runners)) * bench.steps() // len(bench.variants))
            notes = (model.remark, "" if model.checkpoint else NO_CHECKPOINT)
            report.notes += [f"{model.name}: {note}" for note in notes if note]
            meter = _meter(bench, runners)
            turns = [_Turn(model, bench, scale, runners) for scale in bench.scales]
            for turn in turns:
                turn.run(meter, advance)
            # Shares refer to the peak of the whole run.
            for turn in turns:
                report.results += turn.results(meter, report, advance)
            report.gemm |= {name: asdict(peak) for name, peak in meter.peaks.items()}
            report.gemm |= {f"{name} limited to {isa}": asdict(peak) for (isa, name), peak in meter.isa_peaks.items()}


def open_runners(model: BenchModel, bench: Bench, report: Report, stack: ExitStack) -> dict[str, Runner]:
    """Variant → loaded, closed by `stack`. What cannot be had is named in `report`; HiifError where nothing can."""
    found: dict[str, Runner] = {}
    for name in bench.variants:
        try:
            runner = open_variant(name, model, bench.thread_count, bench.engine, bench.isa)
        except HiifError as error:
            report.unavailable[f"{model.name}: {name}"] = str(error)
            continue
        found[name] = runner
        stack.callback(runner.close)
    if not found:
        reasons = "; ".join(dict.fromkeys(report.unavailable.values()))
        raise HiifError(f"none of the variants {', '.join(bench.variants)} can be had for {model.name}: {reasons}")
    return found


def _meter(bench: Bench, runners: Mapping[str, Runner]) -> IsaMeter:
    isas = {(isa, runner.arithmetic) for runner in runners.values() if (isa := _isa(runner))}
    return IsaMeter(bench.thread_count, {runner.arithmetic for runner in runners.values()} | {"fp32"}, isas)


def _isa(runner: Runner) -> IsaName | None:
    found: IsaName | None = getattr(runner, "isa", None)
    return found


class _Turn:
    """All rounds of one model at one scale."""

    def __init__(self, model: BenchModel, bench: Bench, scale: float, runners: dict[str, Runner]) -> None:
        self._model, self._bench, self._scale, self._runners = model, bench, scale, runners
        self._image = picture(bench.source)
        self._size = output_size(bench.source, scale=scale)
        self._seconds: dict[str, list[float]] = {name: [] for name in runners}
        self._stages: dict[str, list[Mapping[str, float]]] = {name: [] for name in runners}
        self._colours: dict[str, NDArray[Any]] = {}

    def run(self, meter: IsaMeter, advance: Callable[[int], None]) -> None:
        """Warm up, then measure in turns."""
        for name, runner in self._runners.items():
            self._colours[name] = runner.colours(self._image, self._size)
            advance(1)
        # In turns, and not one variant after the other: a machine's speed drifts.
        for _ in range(self._bench.rounds):
            meter.measure()
            for name, runner in self._runners.items():
                time.sleep(PAUSE)
                began = time.perf_counter()
                runner.upscale(self._image, self._size)
                self._seconds[name].append(time.perf_counter() - began)
                self._stages[name].append(runner.stages())
                advance(1)

    def results(self, meter: IsaMeter, report: Report, advance: Callable[[int], None]) -> list[Result]:
        """All variants, summed up; what takes long and is not timed happens here."""
        expected = self._reference(report)
        medians = {name: statistics.median(seconds) for name, seconds in self._seconds.items()}
        baselines = [name for name in medians if name.partition(":")[0] in BASELINES] or [next(iter(medians))]
        works: dict[object, Work | None] = {}
        found = []
        for name in self._runners:
            work = self._work(name, works)
            found.append(self._result(name, medians, baselines, expected, work, meter, report))
            advance(1)
        return found

    def _result(
        self, name: str, medians: Mapping[str, float], baselines: list[str], expected: NDArray[Any] | None,
        work: Work | None, meter: IsaMeter, report: Report,
    ) -> Result:  # fmt: skip
        median, runner, queries = medians[name], self._runners[name], self._size[0] * self._size[1]
        low, high = (float(np.quantile(self._seconds[name], share)) for share in (0.25, 0.75))
        memory = memory_of(runner.resolved, self._model, self._bench, self._bench.source, self._size, report)
        is_foreign = self._model.checkpoint is None and name.partition(":")[0] in BASELINES
        gflops = 2 * work.macs / median / 1e9 if work else None
        peak, isa = meter.peaks.get(runner.arithmetic), _isa(runner)
        limited = meter.isa_peaks.get((isa, runner.arithmetic)) if isa else None
        return Result(
            model=self._model.name,
            variant=name,
            detail=runner.detail,
            source=self._bench.source,
            scale=self._scale,
            size=self._size,
            median_s=median,
            quartiles_s=(low, high),
            seconds=tuple(self._seconds[name]),
            ratio=medians["plain"] / median if "plain" in medians else None,
            ratios={baseline: medians[baseline] / median for baseline in baselines},
            stages_s={
                stage: statistics.median(one[stage] for one in self._stages[name]) for stage in self._stages[name][0]
            },
            psnr_db=_psnr(self._colours[name], expected),
            exact_db=None if is_foreign else _psnr(self._colours[name], self._colours.get("exact")),
            macs_per_query=work.macs / queries if work else None,
            bytes_per_query=work.bytes / queries if work else None,
            gflops=gflops,
            gemm_share=gflops / peak.gflops if gflops and peak else None,
            peak_rss_mb=memory.peak_mb if memory else None,
            working_mb=memory.working_mb if memory else None,
            fallback_blocks=getattr(runner, "fallback_blocks", 0),
            isa=isa,
            isa_share=gflops / limited.gflops if gflops and limited else None,
        )

    def _work(self, name: str, known: dict[object, Work | None]) -> Work | None:
        """Counted once for all variants that cut the work alike: counting takes as long as a picture."""
        key: object = SETTINGS[name].render if name in SETTINGS else name
        if key not in known:
            known[key] = self._runners[name].work(self._image, self._size)
        return known[key]

    def _reference(self, report: Report) -> NDArray[Any] | None:
        if self._model.checkpoint is None:
            return None
        try:
            runner = open_variant(REFERENCE, self._model, self._bench.thread_count)
        except HiifError as error:
            report.unavailable[f"{self._model.name}: psnr_db"] = str(error)
            return None
        try:
            return runner.colours(self._image, self._size)
        finally:
            runner.close()


def memory_of(variant: str, model: BenchModel, bench: Bench, source: Size, size: Size, report: Report) -> Memory | None:
    """Measured in a process of its own; None, and a reason in `report`, where that is not possible or not wanted."""
    if not bench.with_memory:
        return None
    engine = {"library": bench.engine.library, "isa": bench.isa}
    try:
        return measure_memory(variant, model.bundle.folder, model.checkpoint, bench.thread_count, source, size, engine)
    except HiifError as error:
        report.unavailable[f"{model.name}: memory of {variant} at {size[1]}x{size[0]}"] = str(error)
        return None


def _psnr(output: NDArray[Any], expected: NDArray[Any] | None) -> float | None:
    return None if expected is None else measure(output, expected).psnr
