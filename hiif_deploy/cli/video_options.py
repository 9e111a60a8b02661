"""Options of the command line that are for videos only."""

from typing import Annotated

import typer

from hiif_deploy.cli.options import VIDEO, in_panel, refuse_options
from hiif_deploy.errors import OptionError
from hiif_deploy.video.task import OnError

_video = in_panel(VIDEO)
CodecOption = Annotated[str | None, _video("FFmpeg's encoder, such as libx265, libsvtav1 or hevc_nvenc.")]
CrfOption = Annotated[int | None, _video("The encoder's constant quality; lower is better.")]
PresetOption = Annotated[str | None, _video("The encoder's preset, such as slow.")]
PixelFormatOption = Annotated[str | None, _video("Such as yuv420p10le; default: the clip's.")]
EncoderOption = Annotated[list[str] | None, _video("More for the encoder.", "--encoder-option", metavar="NAME=VALUE")]
FramesOption = Annotated[str | None, _video("Frames A to B-1 only, from 0.", metavar="A:B")]
FromOption = Annotated[str | None, _video("From 90.5 or 1:30.5 on, its first frame being 0.", "--from", metavar="TIME")]
ToOption = Annotated[str | None, _video("Up to that time.", "--to", metavar="TIME")]
OnErrorOption = Annotated[OnError, _video("What a frame that cannot be decoded leads to.")]
SegmentOption = Annotated[
    int, _video("About so many frames are kept at a time, when work is interrupted.", metavar="N")
]
RestartOption = Annotated[bool, _video("Throw unfinished work of another run away.", "--restart")]
JsonProgressOption = Annotated[bool, _video("Progress as JSON lines on stderr.", "--json-progress")]

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
