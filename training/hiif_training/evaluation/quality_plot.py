"""Draws quality against scale: PSNR of every model on every set, and its distance from the first model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiif_deploy.errors import OptionError
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.files import atomic_write
from hiif_training.evaluation.evaluate import Evaluation
from hiif_training.evaluation.paper import paper_row

SUFFIXES = (".png", ".svg", ".pdf")
MARKERS = "os^DvPX"
DPI = 150


@dataclass(frozen=True)
class Curve:
    """One line of the plot."""

    label: str
    """Name in the legend."""
    style: int
    """Number of the colour and of the marker."""
    is_paper: bool
    """Whether these are the paper's figures."""
    psnr: dict[tuple[str, float], float]
    """(set, scale) → PSNR in dB, ascending scales."""

    def on(self, name: str) -> dict[float, float]:
        """Return scale → PSNR on one set."""
        return {scale: value for (found, scale), value in self.psnr.items() if found == name}


def check_plot(path: Path) -> None:
    """Raise where a plot cannot be written: OptionError for another suffix, MissingExtraError without matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise OptionError(f"--plot {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    require_extra("bench")


def curves(found: Sequence[Evaluation], *, with_paper: bool) -> list[Curve]:
    """Return one curve per model, in their order, and one per row of the paper that stands beside a model.

    Fixed-scale models that differ in scale only are one curve, as they are one row of the paper.
    """
    own: list[Curve] = []
    paper: dict[str, Curve] = {}
    for label, members in _groups(found).items():
        curve = Curve(label, len(own), False, {})
        own.append(curve)
        parts = [(member.spec, part) for member in members for part in member.results]
        for spec, part in sorted(parts, key=lambda entry: entry[1].scale):
            curve.psnr[part.set, part.scale] = part.mean("psnr") or 0.0
            # The paper's bicubic is not on luma.
            if with_paper and spec and (row := paper_row(spec, part.set, part.scale)):
                beside = paper.setdefault(row[0], Curve(f"paper: {row[0]}", len(paper), True, {}))
                beside.psnr[part.set, part.scale] = row[1]
    return [*own, *paper.values()]


def _groups(found: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Return label → evaluations that are one curve."""
    alike: dict[str, list[Evaluation]] = {}
    for evaluation in found:
        if evaluation.fixed_scale is not None:
            alike.setdefault(_without_scale(evaluation.spec), []).append(evaluation)
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in found:
        family = alike.get(_without_scale(evaluation.spec), [])
        label = evaluation.model
        if len({member.fixed_scale for member in family}) == len(family) > 1:
            label = f"{evaluation.spec['args']['encoder_spec']['name']}, fixed scales"
        groups.setdefault(label, []).append(evaluation)
    return groups


def _without_scale(spec: Mapping[str, Any]) -> str:
    args = {name: value for name, value in spec.get("args", {}).items() if name != "scale"}
    return json.dumps({**spec, "args": args}, sort_keys=True)


def write_plot(path: Path, drawn: Sequence[Curve]) -> None:
    """Write the plot in the format of the suffix, a column for each set."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(name for curve in drawn for name, _ in curve.psnr))
    heights = [3, 2] if len(drawn) > 1 else [3]
    figure = Figure(figsize=(3 + 4.2 * len(sets), 1 + 1.2 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), len(sets), squeeze=False, sharex="col", height_ratios=heights)
    for column, name in enumerate(sets):
        panels[0, column].set_title(name)
        _draw(panels[0, column], drawn, name, {})
        if len(heights) > 1:
            _draw(panels[1, column], drawn, name, drawn[0].on(name))
        panels[-1, column].set_xlabel("scale")
    panels[0, 0].set_ylabel("PSNR (dB)")
    if len(heights) > 1:
        panels[1, 0].set_ylabel(f"above {drawn[0].label} (dB)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=DPI)


def _style(curve: Curve) -> dict[str, Any]:
    """Return Matplotlib's settings: a coloured line for a model, black hollow markers for the paper."""
    marker = MARKERS[curve.style % len(MARKERS)]
    if curve.is_paper:
        return {"color": "black", "marker": marker, "linestyle": "none", "markersize": 10, "markerfacecolor": "none"}
    return {"color": f"C{curve.style % 10}", "marker": marker}


def _draw(panel: Any, drawn: Sequence[Curve], name: str, base: Mapping[float, float]) -> None:
    """Draw the curves of one set, above those of `base` where it has the scale; all where it is empty."""
    scales = sorted({scale for curve in drawn for scale in curve.on(name)})
    for curve in drawn:
        points = {s: v - base.get(s, 0) for s, v in curve.on(name).items() if not base or s in base}
        panel.plot(list(points), list(points.values()), label=curve.label, **_style(curve))
    panel.set_xscale("log")
    panel.set_xticks(scales, [f"×{scale:g}" for scale in scales])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
