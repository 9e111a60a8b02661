"""Formats figures as a table for the terminal or as Markdown, with the paper's figures where requested."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table

from hiif_training.evaluation.evaluate import Evaluation
from hiif_training.evaluation.paper import paper_row

Rows = list[list[str]]


def header(found: Sequence[Evaluation], *, with_paper: bool) -> list[str]:
    """Return the column titles; metrics that were not measured are left out."""
    first = found[0].results[0]
    model = ["model"] if len(found) > 1 else []
    measured = [title for title, metric in (("SSIM", "ssim"), ("LPIPS", "lpips")) if first.mean(metric) is not None]
    paper = ["paper"] if with_paper else []
    return ["set", "scale", *model, "low", "pictures", "PSNR", *measured, "s per picture", *paper]


def rows(found: Sequence[Evaluation], *, with_paper: bool) -> Rows:
    """Return one row for each set, scale and model, in the columns of `header`; the models of a set and scale lie
    together."""
    listed = []
    order = list(dict.fromkeys(part.set for evaluation in found for part in evaluation.results))
    parts = [(evaluation, part) for evaluation in found for part in evaluation.results]
    for evaluation, part in sorted(parts, key=lambda entry: (entry[1].scale, order.index(entry[1].set))):
        model = [evaluation.model] if len(found) > 1 else []
        row = [part.set, f"×{part.scale:g}", *model, part.low, str(len(part.pictures)), f"{part.mean('psnr'):.4f}"]
        row += [f"{value:.4f}" for value in (part.mean("ssim"), part.mean("lpips")) if value is not None]
        row.append(f"{part.mean('seconds'):.2f}")
        if with_paper:
            paper = paper_row(evaluation.spec, part.set, part.scale)
            row.append(f"{paper[1]:.2f} ({paper[0]})" if paper else "–")
        listed.append(row)
    return listed


def terminal_table(columns: Sequence[str], listed: Rows) -> Table:
    """Return a Rich table for the terminal."""
    # Where the terminal is narrow, the other columns wrap, and no figure is cut.
    whole = ("model", "PSNR", "SSIM", "LPIPS")
    titles = [Column(name, no_wrap=name in whole, overflow="fold") for name in columns]
    table = Table(*titles, box=None, pad_edge=False)
    for row in listed:
        table.add_row(*row)
    return table


def markdown(title: str, columns: Sequence[str], listed: Rows) -> str:
    """Return the table as Markdown for a file."""
    lines = [f"**{title}**", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in listed)]) + "\n"
