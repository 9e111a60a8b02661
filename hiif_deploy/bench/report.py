"""A benchmark's figures for people: tables, pictures (extra `bench`), and the machine that they depend on."""

import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from hiif_deploy.backends.options import usable_cores
from hiif_deploy.bench.against import Change, Earlier
from hiif_deploy.bench.run import Report, Result
from hiif_deploy.bench.stages import STAGES
from hiif_deploy.bench.sweep import Growth, Point
from hiif_deploy.rendering.tuned import processor
from hiif_deploy.support.extras import installed_version, require_extra
from hiif_deploy.support.files import atomic_write
from hiif_deploy.support.system_table import CPU_INFO, table_value
from hiif_deploy.support.version import __version__

DPI = 120
PACKAGES = ("numpy", "onnxruntime", "openvino", "llvmlite", "torch", "opencv-python", "tensorrt")
"""Whose versions are kept."""
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8", "asimddp", "bf16")
"""Instruction sets that decide a processor's speed here."""


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


def plot_results(results: Sequence[Result], path: Path) -> None:
    """Per model and scale: seconds with quartiles, dB beside each bar, and peak memory."""
    groups = [list(group) for _, group in groupby(results, key=lambda result: (result.model, result.scale))]
    figure = _figure(11, 0.6 + sum(1 + 0.3 * len(group) for group in groups))
    axes = figure.subplots(len(groups), 2, squeeze=False, height_ratios=[len(group) for group in groups])
    for (left, right), group in zip(axes, groups, strict=True):
        names = [result.variant for result in group]
        left.barh(names, [result.median_s for result in group], color="tab:blue")
        for n, result in enumerate(group):
            left.plot(result.quartiles_s, (n, n), color="black")
            left.text(result.quartiles_s[1], n, f"  {_label(result)}", va="center", fontsize=8)
        left.set(title=f"{group[0].model} ×{group[0].scale:g}", xlabel="seconds")
        left.margins(x=0.45)
        right.barh(names, [result.peak_rss_mb or 0 for result in group], color="tab:orange")
        right.set(title="peak resident memory", xlabel="MiB")
        for panel in (left, right):
            panel.invert_yaxis()
    _save(figure, path)


def plot_sweep(found: Sequence[Point], path: Path) -> None:
    """Per model and series: time and memory over output pixels."""
    groups = [list(group) for _, group in groupby(found, key=lambda point: (point.model, point.series))]
    figure = _figure(11, 3.6 * len(groups))
    axes = figure.subplots(len(groups), 2, squeeze=False)
    for (left, right), group in zip(axes, groups, strict=True):
        title = f"{group[0].model}, growing {group[0].series}"
        _lines(left, group, lambda point: point.median_s)
        left.set(title=title, xlabel="million output pixels", ylabel="seconds")
        _lines(right, group, lambda point: point.peak_rss_mb)
        right.set(title=title, xlabel="million output pixels", ylabel="peak resident memory (MiB)")
        for panel in (left, right):
            panel.set_xlim(left=0)
            panel.set_ylim(bottom=0)
        left.legend(fontsize=8)
    _save(figure, path)


def machine_facts() -> dict[str, object]:
    """Processor, cores, memory, system, versions, command and time."""
    return {
        "processor": processor(),
        "instructions": [flag for flag in FLAGS if flag in (table_value(CPU_INFO, "flags") or "").split()],
        "usable_cores": usable_cores(),
        "memory": table_value(Path("/proc/meminfo"), "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"hiif-deploy": __version__, **{name: installed_version(name) for name in PACKAGES}},
        "command": " ".join(["hiif-deploy", *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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
    has_isa = any(result.isa for result in results)
    table = _table(
        "", "variant", *columns, "GFLOP/s", "of peak", *(("isa", "of its peak") if has_isa else ()), "kMAC", "KB"
    )
    for result in results:
        table.add_row(
            result.variant, *(_number(result.stages_s.get(name), "{:.3f}") for name in columns),
            _number(result.gflops, "{:.0f}"), _number(result.gemm_share, "{:.0%}"),
            *((result.isa or "–", _number(result.isa_share, "{:.0%}")) if has_isa else ()),
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


def _lines(panel: Any, group: Sequence[Point], value: Callable[[Point], float | None]) -> None:
    for name in dict.fromkeys(point.variant for point in group):
        drawn = [point for point in group if point.variant == name and value(point) is not None]
        panel.plot([point.queries / 1e6 for point in drawn], [value(point) for point in drawn], marker="o", label=name)


def _label(result: Result) -> str:
    ratio = "" if result.ratio is None else f", {result.ratio:.2f}×"
    decibel = "" if result.psnr_db is None else f", {result.psnr_db:.0f} dB"
    return f"{result.median_s:.2f} s{ratio}{decibel}"


def _figure(width: float, height: float) -> Any:
    require_extra("bench")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
