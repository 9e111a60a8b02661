"""The sub-command `bench`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hiif_deploy.backends.options import EngineOptions, IsaName
from hiif_deploy.bench import report as reports
from hiif_deploy.bench.against import Earlier, compare, read_run
from hiif_deploy.bench.case import BenchModel, default_models, open_model
from hiif_deploy.bench.run import Bench, Report, run_bench
from hiif_deploy.bench.sweep import growth, run_sweep, sweep_steps
from hiif_deploy.bench.variants import VARIANTS, check_variants
from hiif_deploy.cli.options import LibraryOption, ThreadsOption, limited_threads
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import HiifError, OptionError
from hiif_deploy.geometry.sizes import check_scale
from hiif_deploy.geometry.target import parse_size
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.files import write_file
from hiif_deploy.support.messages import json_text, printable
from hiif_deploy.support.progress import Progress

SWEPT = ("plain", "exact", "sampled")
"""Variants of a sweep where none are named."""
WIDTH = 110
"""Columns of the tables where there is no terminal."""
Found = tuple[dict[str, Any], list[Table]]
"""Facts for the JSON, and tables."""


def bench(
    model: Annotated[
        str | None, typer.Argument(help="Bundle folder, name of a model, or full; default: full and the default model.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="What the bundle was exported from: the baselines' weights, and for psnr_db.")
    ] = None,
    variants: Annotated[str | None, typer.Option(help="Names, separated by commas; default: all.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Engine to measure, not the variants; repeatable.")] = None,
    precision: Annotated[ComputePrecision | None, typer.Option(help="With --engine: what is computed in.")] = None,
    library: LibraryOption = None,
    isa: Annotated[
        IsaName | None, typer.Option(help="Instruction set of native code; default: the fastest of this processor.")
    ] = None,
    scale: Annotated[list[float] | None, typer.Option(help="Factor; repeatable; default: 2, 3.3 and 4.")] = None,
    input_: Annotated[str, typer.Option("--input", help="WIDTHxHEIGHT of the picture.")] = "128x128",
    rounds: Annotated[int, typer.Option(help="Timed pictures per variant, after one to warm up.")] = 5,
    threads: ThreadsOption = 0,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, each variant in its own process.")] = True,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Instead: how time and memory grow with the scale and with the picture.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them into this PNG (extra: bench).")] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with a run that --json wrote.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only: no progress.")] = False,
) -> None:
    """Measure ways to enlarge a picture, in turns: seconds, memory, and how far their outputs are from float64."""
    if sweep and against is not None:
        raise OptionError("--against compares variants; leave --sweep out")
    names = _names(variants, engine, precision, SWEPT if sweep else VARIANTS)
    check_variants(names)
    scales = tuple(scale or (2.0, 3.3, 4.0))
    for factor in scales:
        check_scale(factor)
    options = EngineOptions(library=library or "tensorrt")
    plan = Bench(names, scales, parse_size("--input", input_), rounds, limited_threads(threads), memory, options, isa)
    earlier = None if against is None else read_run(against)
    if plot is not None:
        require_extra("bench")
    report = Report()
    models = open_models([model] if model else default_models(), checkpoint, report, quiet=quiet)
    if sweep:
        facts, tables = measure_sweep(models, plan, report, plot, quiet=quiet)
    else:
        facts, tables = measure_variants(models, plan, report, earlier, plot, quiet=quiet)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for table in tables:
        console.print(table)
    for line in reports.remarks(report):
        print(printable(line), file=sys.stderr)
    if output is not None:
        found = {**report.facts(), **facts, "machine": reports.machine_facts(), "threads": plan.thread_count}
        write_file(output, f"{json_text(found)}\n".encode())


def measure_variants(
    models: Sequence[BenchModel],
    plan: Bench,
    report: Report,
    earlier: Earlier | None,
    plot: Path | None,
    *,
    quiet: bool,
) -> Found:
    """Measure the variants in turns, against an earlier run where there is one."""
    with Progress("measuring", len(models) * plan.steps(), unit="steps", enabled=not quiet) as progress:
        run_bench(models, plan, report, progress.advance)
    if plot is not None:
        reports.plot_results(report.results, plot)
    tables = reports.bench_tables(report)
    if earlier is None:
        return {}, tables
    changes = compare(report.results, earlier)
    facts = {"file": str(earlier.path), "processor": earlier.processor, "changes": [*map(asdict, changes)]}
    return {"against": facts}, [*tables, reports.change_table(changes, earlier)]


def measure_sweep(
    models: Sequence[BenchModel], plan: Bench, report: Report, plot: Path | None, *, quiet: bool
) -> Found:
    """Measure the series over scales and picture sizes."""
    with Progress("sweeping", len(models) * sweep_steps(plan), unit="pictures", enabled=not quiet) as progress:
        found = run_sweep(models, plan, report, progress.advance)
    if plot is not None:
        reports.plot_sweep(found, plot)
    lines = growth(found)
    return {"sweep": [*map(asdict, found)], "growth": [*map(asdict, lines)]}, [reports.sweep_table(found, lines)]


def open_models(wanted: Sequence[str], checkpoint: Path | None, report: Report, *, quiet: bool) -> list[BenchModel]:
    """Those that can be had; HiifError where none can, or where the only one cannot."""
    found = []
    for location in wanted:
        try:
            found.append(open_model(location, checkpoint, show_progress=not quiet))
        except HiifError as error:
            if len(wanted) == 1:
                raise
            report.unavailable[location] = str(error)
    if not found:
        raise HiifError("; ".join(report.unavailable.values()))
    return found


def _names(
    variants: str | None, engines: list[str] | None, precision: ComputePrecision | None, default: tuple[str, ...]
) -> tuple[str, ...]:
    if variants is not None:
        return tuple(dict.fromkeys(name.strip() for name in variants.split(",") if name.strip()))
    if engines:
        return tuple(f"{engine}:{precision}" if precision else engine for engine in engines)
    return default
