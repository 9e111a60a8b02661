"""A benchmark's figures as a picture. Needs the extra `bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiif_deploy.bench.run import Result
from hiif_deploy.bench.sweep import Point
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120


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


def _lines(panel: Any, group: Sequence[Point], value: Callable[[Point], float | None]) -> None:
    for name in dict.fromkeys(point.variant for point in group):
        drawn = [point for point in group if point.variant == name and value(point) is not None]
        panel.plot([point.queries / 1e6 for point in drawn], [value(point) for point in drawn], marker="o", label=name)


def _label(result: Result) -> str:
    ratio = "" if result.ratio is None else f", {result.ratio:.2f}×"
    decibel = "" if result.psnr_db is None else f", {result.psnr_db:.0f} dB"
    return f"{result.median_s:.2f} s{ratio}{decibel}"


def _figure(width: float, height: float) -> Figure:
    require_extra("bench")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
