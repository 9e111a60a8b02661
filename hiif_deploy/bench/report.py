"""A benchmark's figures for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from hiif_deploy.bench.against import Change, Earlier
from hiif_deploy.bench.run import Report, Result
from hiif_deploy.bench.stages import STAGES
from hiif_deploy.bench.sweep import Growth, Point


def bench_tables(report: Report) -> list[Table]:
    """Two per model and scale: seconds with what they are worth, and where they go."""
    tables = []
    for _, group in groupby(report.results, key=lambda result: (result.model, result.scale)):
        results = list(group)
        tables += [_figures(results), _stages(results)]
    return tables


def change_table(changes: Sequence[Change], earlier: Earlier) -> Table:
    """This run against an earlier one."""
    table = _table(
        f"against {earlier.path} ({earlier.processor})", "variant", "×", "before (s)", "now (s)", "ratio", ""
    )
    for change in changes:
        verdict = "faster" if change.ratio > 1 else "slower"
        table.add_row(
            f"{change.model}: {change.variant}", f"{change.scale:g}", f"{change.before_s:.3f}", f"{change.now_s:.3f}",
            f"{change.ratio:.2f}", verdict if change.is_beyond_quartiles else "within quartiles",
        )  # fmt: skip
    return table


def sweep_table(found: Sequence[Point], lines: Sequence[Growth]) -> Table:
    """Every point, and under each series how it grows."""
    table = _table("", "variant", "growing", "picture", "×", "Mpixel", "s", "µs/query", "MiB", "above")
    for point in found:
        table.add_row(
            f"{point.model}: {point.variant}", point.series, f"{point.source[1]}x{point.source[0]}",
            f"{point.scale:g}", f"{point.queries / 1e6:.3f}", f"{point.median_s:.3f}",
            f"{point.median_s / point.queries * 1e6:.1f}", _number(point.peak_rss_mb, "{:,.0f}"),
            _number(point.working_mb, "{:,.0f}"),
        )  # fmt: skip
    for line in lines:
        memory = "" if line.mb_per_megapixel is None else f"{line.mb_per_megapixel:,.0f} MiB/Mpixel"
        table.add_row(
            f"{line.model}: {line.variant}", line.series, "all", "", "", f"~ n^{line.exponent:.2f}", "", memory, ""
        )
    return table


def remarks(report: Report) -> list[str]:
    """Lines on what was not measured and why, the machine's peak, and what a reader must know."""
    peaks = (f"{name} {peak['gflops']:.0f} ({peak['engine']})" for name, peak in report.gemm.items())
    absent = [f"not measured: {name}: {reason}" for name, reason in report.unavailable.items()]
    peak = [f"matrix products of this machine, GFLOP/s: {', '.join(peaks)}"] if report.gemm else []
    return [*absent, *report.notes, *peak]


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
