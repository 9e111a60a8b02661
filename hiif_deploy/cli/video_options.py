"""Options of the command line that are for videos only."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hiif_deploy.cli.given import refuse_options
from hiif_deploy.cli.options import VIDEO
from hiif_deploy.errors import OptionError
from hiif_deploy.video.task import OnError

CodecOption = Annotated[
    str | None, typer.Option(help="FFmpeg's encoder, such as libx265, libsvtav1 or hevc_nvenc.", rich_help_panel=VIDEO)
]
CrfOption = Annotated[
    int | None, typer.Option(help="The encoder's constant quality; lower is better.", rich_help_panel=VIDEO)
]
PresetOption = Annotated[str | None, typer.Option(help="The encoder's preset, such as slow.", rich_help_panel=VIDEO)]
PixelFormatOption = Annotated[
    str | None, typer.Option(help="Such as yuv420p10le; default: the clip's.", rich_help_panel=VIDEO)
]
EncoderOption = Annotated[
    list[str] | None,
    typer.Option("--encoder-option", metavar="NAME=VALUE", help="More for the encoder.", rich_help_panel=VIDEO),
]
FramesOption = Annotated[
    str | None, typer.Option(metavar="A:B", help="Frames A to B-1 only, from 0.", rich_help_panel=VIDEO)
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="From 90.5 or 1:30.5 on, its first frame being 0.", rich_help_panel=VIDEO
    ),
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to that time.", rich_help_panel=VIDEO)]
OnErrorOption = Annotated[
    OnError, typer.Option(help="What a frame that cannot be decoded leads to.", rich_help_panel=VIDEO)
]
SegmentOption = Annotated[
    int,
    typer.Option(
        metavar="N", help="About so many frames are kept at a time, when work is interrupted.", rich_help_panel=VIDEO
    ),
]
RestartOption = Annotated[
    bool, typer.Option("--restart", help="Throw unfinished work of another run away.", rich_help_panel=VIDEO)
]
JsonProgressOption = Annotated[
    bool, typer.Option("--json-progress", help="Progress as JSON lines on stderr.", rich_help_panel=VIDEO)
]
UpscaleStatistics = Literal["exact", "sampled", "reuse"]
"""`reuse` is for videos."""


VIDEO_ONLY = (
    "codec", "crf", "preset", "pixel_format", "encoder_option", "frames", "from_", "to", "on_error", "segment_frames",
    "restart", "json_progress",
)  # fmt: skip
"""Parameters of `upscale` that are for videos."""
PICTURE_ONLY = ("format_", "quality", "lossless", "larger", "report_deviation")
"""Parameters of `upscale` that are for pictures."""


def refuse_misplaced(context: typer.Context, *, is_video: bool) -> None:
    """OptionError for options of videos where pictures are upscaled, and the other way round, or what Ray cannot do."""
    if is_video:
        refuse_options(context, PICTURE_ONLY, "for pictures, and the input is a video; leave it out")
    else:
        refuse_options(context, VIDEO_ONLY, "for videos, and the input is none; leave it out")
        if context.params["statistics"] == "reuse":
            raise OptionError("--statistics reuse is for videos: a picture has no frame before it")
    if context.params["report_deviation"] and context.params["ray"] is not None:
        raise OptionError("--report-deviation is for one machine; leave out --ray")


def parse_encoder_options(words: list[str] | None) -> tuple[tuple[str, str], ...]:
    """`["tune=film"]` → pairs. OptionError for a word without `=`."""
    pairs = []
    for word in words or ():
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise OptionError(f"--encoder-option {word}: expected NAME=VALUE, for example tune=film")
        pairs.append((name, value))
    return tuple(pairs)
