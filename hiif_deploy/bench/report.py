"""A benchmark's figures for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.table import Table

from hiif_deploy.bench.run import Report, Result
from hiif_deploy.bench.stages import STAGES


def bench_tables(report: Report) -> Iterator[Table]:
    """Two per model and scale: seconds with what they are worth, and where they go."""
    for _, group in groupby(report.results, key=lambda result: (result.model, result.scale)):
        results = list(group)
        yield _figures(results)
        yield _stages(results)


def remarks(report: Report) -> list[str]:
    """What was not measured and why, the machine's peak, and what a reader must know."""
    peaks = (f"{name} {peak['gflops']:.0f} ({peak['engine']})" for name, peak in report.gemm.items())
    absent = [f"not measured: {name}: {reason}" for name, reason in report.unavailable.items()]
    return [*absent, *report.notes, f"matrix products of this machine, GFLOP/s: {', '.join(peaks)}"]


def _figures(results: Sequence[Result]) -> Table:
    first = results[0]
    known = any(result.psnr_db is not None for result in results)
    title = f"{first.model}, {first.source[1]}x{first.source[0]} ×{first.scale:g} → {first.size[1]}x{first.size[0]}"
    baselines = list(first.ratios)
    table = _table(
        title, "variant", "s", "quartiles", *(f"by {name}" for name in baselines), "dB" if known else "dB to exact",
        "MiB", "above",
    )  # fmt: skip
    for result in results:
        low, high = result.quartiles_s
        table.add_row(
            result.variant, f"{result.median_s:.3f}", f"{low:.3f}–{high:.3f}",
            *(f"{result.ratios[name]:.2f}" for name in baselines),
            _number(result.psnr_db if known else result.exact_db, "{:.1f}"),
            _number(result.peak_rss_mb, "{:,.0f}"), _number(result.working_mb, "{:,.0f}"),
        )  # fmt: skip
    return table


def _stages(results: Sequence[Result]) -> Table:
    columns = [stage for stage in STAGES if any(stage in result.stages_s for result in results)]
    table = _table("", "variant", *columns, "GFLOP/s", "of peak", "kMAC", "KB")
    for result in results:
        table.add_row(
            result.variant, *(_number(result.stages_s.get(name), "{:.3f}") for name in columns),
            _number(result.gflops, "{:.0f}"), _number(result.gemm_share, "{:.0%}"),
            _number(result.macs_per_query, "{:,.0f}", 1000), _number(result.bytes_per_query, "{:,.0f}", 1000),
        )  # fmt: skip
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "–" if value is None else form.format(value / unit)
