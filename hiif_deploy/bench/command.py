"""The sub-command `bench`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hiif_deploy.bench.case import BenchModel
from hiif_deploy.bench.machine import machine_facts
from hiif_deploy.bench.models import default_models, open_model
from hiif_deploy.bench.report import bench_tables, remarks
from hiif_deploy.bench.run import Bench, Report, run_bench
from hiif_deploy.bench.variants import check_variants, variant_names
from hiif_deploy.errors import HiifError
from hiif_deploy.files import write_aside
from hiif_deploy.progress import Progress
from hiif_deploy.say import say_on_stderr
from hiif_deploy.session import Arithmetic, EngineOptions
from hiif_deploy.target import parse_size
from hiif_deploy.trt_library import LibraryName

LibraryOption = Annotated[LibraryName, typer.Option(help="With --engine tensorrt: which of the two products.")]

WIDTH = 110
"""Columns of the tables where there is no terminal."""


def bench(
    model: Annotated[
        str | None, typer.Argument(help="Bundle folder, shipped model, or full; default: full and the default model.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="What the bundle was exported from: the baselines' weights, and for psnr_db.")
    ] = None,
    variants: Annotated[str | None, typer.Option(help="Names, separated by commas; default: all.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Engine to measure, not the variants; repeatable.")] = None,
    precision: Annotated[Arithmetic | None, typer.Option(help="With --engine: what is computed in.")] = None,
    library: LibraryOption = "tensorrt",
    scale: Annotated[list[float] | None, typer.Option(help="Factor; repeatable; default: 2, 3.3 and 4.")] = None,
    input_: Annotated[str, typer.Option("--input", help="WIDTHxHEIGHT of the picture.")] = "128x128",
    rounds: Annotated[int, typer.Option(help="Timed pictures per variant, after one to warm up.")] = 5,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 takes all that this process may use.")] = 0,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, each variant in its own process.")] = True,
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure ways to enlarge a picture, in turns: seconds, memory, and how far their answers are from float64."""
    names = _names(variants, engine, precision)
    check_variants(names)
    options = EngineOptions(precision=None, library=library)
    source = parse_size("--input", input_)
    plan = Bench(names, tuple(scale or (2.0, 3.3, 4.0)), source, rounds, threads, memory, options)
    report = Report()
    models = open_models([model] if model else default_models(), checkpoint, report, quiet=quiet)
    with Progress("measuring", len(models) * plan.steps(), unit="steps", enabled=not quiet) as progress:
        run_bench(models, plan, report, progress.advance)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for table in bench_tables(report):
        console.print(table)
    for line in remarks(report):
        say_on_stderr(line)
    if output is not None:
        write_json(output, {**report.facts(), "machine": machine_facts(), "threads": plan.thread_count})


def open_models(wanted: Sequence[str], checkpoint: Path | None, report: Report, *, quiet: bool) -> list[BenchModel]:
    """Those that can be had; HiifError where none can, or where the only one cannot."""
    found = []
    for location in wanted:
        try:
            say = (lambda _: None) if quiet else say_on_stderr
            found.append(open_model(location, checkpoint, say, show_progress=not quiet))
        except HiifError as error:
            if len(wanted) == 1:
                raise
            report.unavailable[location] = str(error)
    if not found:
        raise HiifError("; ".join(report.unavailable.values()))
    return found


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Whole or not at all."""
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    write_aside(path, lambda file: file.write(text.encode()))


def _names(variants: str | None, engines: list[str] | None, precision: Arithmetic | None) -> tuple[str, ...]:
    if variants is not None:
        return tuple(dict.fromkeys(name.strip() for name in variants.split(",") if name.strip()))
    if engines:
        return tuple(f"{engine}:{precision}" if precision else engine for engine in engines)
    return variant_names()
