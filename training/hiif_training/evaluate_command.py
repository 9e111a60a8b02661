"""The sub-command `evaluate`. PyTorch is imported when it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hiif_deploy import __version__
from hiif_deploy.cli.options import limited_threads
from hiif_deploy.errors import OptionError
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.files import atomic_write
from hiif_deploy.support.messages import json_text
from hiif_deploy.support.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hiif_training.evaluation.evaluate import Evaluation


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Checkpoints, bundle folders, names of models, or bicubic.")],
    data: Annotated[list[Path], typer.Option(help="Folder of pictures, or with HR/ and LR_bicubic/X2/; repeatable.")],
    scales: Annotated[str, typer.Option(help="Factors, separated by commas.")] = "2,3,4",
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many pictures of each set.")] = None,
    protocol: Annotated[str, typer.Option(help="benchmark (luma) or div2k (colours).")] = "benchmark",
    statistics: Annotated[str, typer.Option(help="global, or rows per group as published: 300 or 100.")] = "global",
    low: Annotated[str | None, typer.Option("--lr", help="Make every small picture: matlab or pil.")] = None,
    engine: Annotated[str, typer.Option(help="auto, torch (checkpoints), or a runtime engine (bundles).")] = "auto",
    provider: Annotated[str, typer.Option(help="Execution provider, or cuda for torch.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Processor threads; 0 takes all that this process may use.")] = 0,
    with_ssim: Annotated[bool, typer.Option("--ssim/--no-ssim", help="Measure SSIM too.")] = True,
    with_lpips: Annotated[bool, typer.Option("--lpips", help="Measure LPIPS too; needs the package lpips.")] = False,
    compare: Annotated[str | None, typer.Option(help="paper: its figures beside the measured ones.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the table to this file.")] = None,
    sheet_file: Annotated[Path | None, typer.Option("--sheet", help="Write crops beside bicubic to this file.")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw PSNR against scale to this file: .png, .svg or .pdf.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only: no progress.")] = False,
) -> None:
    """Measure models on test sets by the published protocol."""
    if with_lpips:
        require_extra("train")
    from hiif_training.evaluation import quality_plot
    from hiif_training.evaluation.evaluate import Measure, parse_scales
    from hiif_training.evaluation.evaluate import evaluate as run
    from hiif_training.evaluation.lpips_metric import Lpips
    from hiif_training.evaluation.options import EvaluatorOptions
    from hiif_training.pictures.picture_sets import PictureSet

    check_choice("--compare", compare, ("paper",))
    check_choice("--lr", low, ("matlab", "pil"))
    options = EvaluatorOptions(cast(Any, engine), parse_statistics(statistics), provider, limited_threads(threads))
    factors, sets = parse_scales(scales), [PictureSet(folder, cast(Any, low), limit) for folder in data]
    measure = Measure(cast(Any, protocol), with_ssim, Lpips() if with_lpips else None)
    for path in (json_file, markdown_file, sheet_file, plot_file):
        check_folder(path)
    if plot_file:
        quality_plot.check_plot(plot_file)
    if sheet_file and len(models) > 1:
        raise OptionError("--sheet shows the crops of one model: name one")
    total = sum(len(part.paths) for part in sets) * len(factors) * len(models)
    with Progress("evaluating", total, unit="pictures", enabled=not quiet) as progress:
        more: Any = {"with_crops": sheet_file is not None, "advance": progress.advance}
        found = distinct(models, [run(model, sets, factors, measure, options, **more) for model in models])
    title = f"{'; '.join(f'{one.model}, {one.engine}' for one in found)}, {protocol} protocol, statistics {statistics}"
    write_tables(title, found, markdown_file, with_paper=compare is not None)
    if json_file:
        write_json(json_file, found, {"protocol": protocol, "statistics": statistics})
    if sheet_file:
        write_sheet(sheet_file, found[0])
    if plot_file:
        quality_plot.write_plot(plot_file, quality_plot.curves(found, with_paper=compare is not None))


def distinct(models: Sequence[str], found: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations of `models`; where two have the same name, each has what the user wrote as its name."""
    if len({one.model for one in found}) == len(found):
        return list(found)
    return [replace(one, model=model) for one, model in zip(found, models, strict=True)]


def write_tables(title: str, found: Sequence[Evaluation], markdown_file: Path | None, *, with_paper: bool) -> None:
    """Print the table, and write it as Markdown where a file is named."""
    from rich.console import Console

    from hiif_training.evaluation import evaluation_report as report

    columns, rows = report.header(found, with_paper=with_paper), report.rows(found, with_paper=with_paper)
    console = Console()
    console.print(title, soft_wrap=True, highlight=False, markup=False)
    console.print(report.terminal_table(columns, rows))
    if markdown_file:
        text = report.markdown(title, columns, rows)
        with atomic_write(markdown_file) as file:
            file.write(text.encode())


def write_json(path: Path, found: Sequence[Evaluation], metadata: dict[str, str]) -> None:
    """Write the figures of every picture, the model's spec and the program's version as JSON; a list for several
    models."""
    from hiif_training.evaluation.evaluate import as_json

    listed = [
        {"model": one.model, "spec": dict(one.spec), "engine": one.engine, "hiif_deploy": __version__, **metadata}
        | {"results": as_json(one.results)}
        for one in found
    ]
    text = json_text(listed if len(listed) > 1 else listed[0]) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def write_sheet(path: Path, found: Evaluation) -> None:
    """Write crops of truth, bicubic and model side by side as one picture."""
    from hiif_deploy.images.io import Picture, write_image
    from hiif_training.evaluation.sheet import draw_sheet

    write_image(path, Picture(draw_sheet(found.crops, found.model)))


def check_folder(path: Path | None) -> None:
    """OptionError where the folder of an output file is missing; checked before the evaluation starts."""
    if path is not None and not path.parent.is_dir():
        raise OptionError(f"{path}: the folder {path.parent} does not exist; create it first")


def parse_statistics(text: str) -> int | None:
    """Parse `global` into None and a number of rows into an int; OptionError for any other text."""
    if text == "global":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(f"--statistics {text!r}: expected global, or output rows per group such as 300")
    return int(text)


def check_choice(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    """OptionError where the value is given and not one of `allowed`."""
    if value is not None and value not in allowed:
        raise OptionError(f"{option} {value!r}: expected {' or '.join(allowed)}")
