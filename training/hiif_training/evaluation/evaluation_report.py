"""Formats figures as a table for the terminal or as Markdown, with the paper's figures where requested."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hiif_training.evaluation.evaluate import Evaluation
from hiif_training.evaluation.paper import paper_row

Rows = list[list[str]]


def header(evaluation: Evaluation, *, with_paper: bool) -> list[str]:
    """Return the column titles; metrics that were not measured are left out."""
    first = evaluation.results[0]
    measured = [title for title, metric in (("SSIM", "ssim"), ("LPIPS", "lpips")) if first.mean(metric) is not None]
    return ["set", "scale", "low", "pictures", "PSNR", *measured, "s per picture", *(["paper"] if with_paper else [])]


def rows(evaluation: Evaluation, *, with_paper: bool) -> Rows:
    """Return one row for each set and scale, in the columns of `header`."""
    listed = []
    for part in evaluation.results:
        row = [part.set, f"×{part.scale:g}", part.low, str(len(part.pictures)), f"{part.mean('psnr'):.4f}"]
        row += [f"{value:.4f}" for value in (part.mean("ssim"), part.mean("lpips")) if value is not None]
        row.append(f"{part.mean('seconds'):.2f}")
        if with_paper:
            found = paper_row(evaluation.spec, part.set, part.scale)
            row.append(f"{found[1]:.2f} ({found[0]})" if found else "–")
        listed.append(row)
    return listed


def terminal_table(title: str, columns: Sequence[str], listed: Rows) -> Table:
    """Return a Rich table for the terminal."""
    table = Table(*columns, title=title, title_justify="left")
    for row in listed:
        table.add_row(*row)
    return table


def markdown(title: str, columns: Sequence[str], listed: Rows) -> str:
    """Return the table as Markdown for a file."""
    lines = [f"**{title}**", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in listed)]) + "\n"
