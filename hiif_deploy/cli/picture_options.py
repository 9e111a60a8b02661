"""Options of `hiif-deploy upscale` for what is made, in which size, and for picture files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hiif_deploy.cli.options import OUTPUT, REPORT, SIZE, SPEED
from hiif_deploy.geometry.target import Larger

InputsArgument = Annotated[
    list[Path], typer.Argument(metavar="IN...", help="Pictures, folders of them, or videos; - reads a picture (stdin).")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="File or folder, - for stdout; default: beside IN.", rich_help_panel=OUTPUT),
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="png, jpg, webp, tif or bmp; default: as IN.", rich_help_panel=OUTPUT),
]
QualityOption = Annotated[int, typer.Option(help="1 to 100, for JPEG and WebP.", rich_help_panel=OUTPUT)]
LosslessOption = Annotated[bool, typer.Option("--lossless", help="Lossless WebP.", rich_help_panel=OUTPUT)]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Make outputs again that exist; otherwise they are skipped.", rich_help_panel=OUTPUT
    ),
]
MaxPixelsOption = Annotated[
    int, typer.Option(help="Largest input and output, in pixels.", show_default=False, rich_help_panel=OUTPUT)
]
ScaleOption = Annotated[
    str | None,
    typer.Option(help="Factor such as 3.3, 4x or 250%, or 2x3.5 (across x down).", rich_help_panel=SIZE),
]
SizeOption = Annotated[
    str | None, typer.Option(help="WIDTHxHEIGHT in pixels, each of them free.", rich_help_panel=SIZE)
]
WidthOption = Annotated[int | None, typer.Option(help="Output width; the height follows.", rich_help_panel=SIZE)]
HeightOption = Annotated[int | None, typer.Option(help="Output height; the width follows.", rich_help_panel=SIZE)]
MaxSideOption = Annotated[int | None, typer.Option(help="Pixels of the longer side.", rich_help_panel=SIZE)]
LargerOption = Annotated[
    Larger | None,
    typer.Option(
        help="A picture that is larger already: skip (default for several), copy, or error (default for one).",
        rich_help_panel=SIZE,
    ),
]
StatisticsOption = Annotated[
    Literal["exact", "sampled", "reuse"],
    typer.Option(
        help="Faster and approximate: sampled, from a part of the queries; reuse, for videos: once per scene.",
        rich_help_panel=SPEED,
    ),
]
DeviationOption = Annotated[
    bool,
    typer.Option(
        "--report-deviation",
        help="Run exactly too, and report how far this approximate run is from it.",
        rich_help_panel=REPORT,
    ),
]
PublishedOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Reproduce the published evaluation: attention statistics per N output rows (300 or 100).",
        rich_help_panel=REPORT,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan (sizes, memory, time) and write nothing.", rich_help_panel=REPORT),
]
