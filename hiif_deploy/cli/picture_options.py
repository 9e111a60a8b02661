"""Options of `hiif-deploy upscale` for what is made, in which size, and for picture files."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hiif_deploy.cli.options import OUTPUT, REPORT, SIZE, SPEED, in_panel
from hiif_deploy.geometry.target import Larger

_output, _size, _speed, _report = map(in_panel, (OUTPUT, SIZE, SPEED, REPORT))
InputsArgument = Annotated[
    list[Path], typer.Argument(metavar="IN...", help="Pictures, folders of them, or videos; - reads a picture (stdin).")
]
OutputOption = Annotated[Path | None, _output("File or folder, - for stdout; default: beside IN.", "--output", "-o")]
FormatOption = Annotated[str | None, _output("png, jpg, webp, tif or bmp; default: as IN.", "--format")]
QualityOption = Annotated[int, _output("1 to 100, for JPEG and WebP.")]
LosslessOption = Annotated[bool, _output("Lossless WebP.", "--lossless")]
OverwriteOption = Annotated[bool, _output("Make outputs again that exist; otherwise they are skipped.", "--overwrite")]
MaxPixelsOption = Annotated[int, _output("Largest input and output, in pixels.", show_default=False)]
ScaleOption = Annotated[str | None, _size("Factor such as 3.3, 4x or 250%, or 2x3.5 (across x down).")]
SizeOption = Annotated[str | None, _size("WIDTHxHEIGHT in pixels, each of them free.")]
WidthOption = Annotated[int | None, _size("Output width; the height follows.")]
HeightOption = Annotated[int | None, _size("Output height; the width follows.")]
MaxSideOption = Annotated[int | None, _size("Pixels of the longer side.")]
LargerOption = Annotated[
    Larger | None,
    _size("A picture that is larger already: skip (default for several), copy, or error (default for one)."),
]
StatisticsOption = Annotated[
    Literal["exact", "sampled", "reuse"],
    _speed("Faster and approximate: sampled, from a part of the queries; reuse, for videos: once per scene."),
]
DeviationOption = Annotated[
    bool, _report("Run exactly too, and report how far this approximate run is from it.", "--report-deviation")
]
PublishedOption = Annotated[
    int | None,
    _report("Reproduce the published evaluation: attention statistics per N output rows (300 or 100).", metavar="N"),
]
DryRunOption = Annotated[bool, _report("Print the plan (sizes, memory, time) and write nothing.", "--dry-run")]
