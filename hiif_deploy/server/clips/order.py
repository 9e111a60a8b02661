"""What a client wants of a clip."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.target import Target, parse_target
from hiif_deploy.server.jobs import check_names, whole_number
from hiif_deploy.server.models import parse_precision
from hiif_deploy.video.mux import FORMATS
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.task import OnError

PARAMETERS = ("scale", "size", "width", "height", "max_side", "model", "precision", "format", "on_error")
"""Names of the parameters of an order."""
ON_ERROR: tuple[OnError, ...] = ("stop", "repeat", "skip")
MEDIA_TYPES = {
    ".mkv": "video/x-matroska", ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime",
    ".webm": "video/webm",
}  # fmt: skip
"""Suffix of a result → its media type."""


@dataclass(frozen=True)
class ClipOrder:
    """Parameters of a request, parsed."""

    target: Target
    model: str
    precision: ComputePrecision | None
    """None: the server's own."""
    suffix: str
    """Of the output."""
    options: VideoOptions
    values: Mapping[str, str]
    """The parameters themselves: `parse_order` makes the same order of them."""


def parse_order(values: Mapping[str, str], name: str) -> ClipOrder:
    """Return the order for a clip of that file name; `values` name a model. OptionError or ScaleError."""
    check_names(values, PARAMETERS)
    sides = (whole_number(values, side) for side in ("width", "height", "max_side"))
    target = parse_target(values.get("scale"), values.get("size"), *sides)
    own = Path(name).suffix.lower()
    suffix = f".{values['format'].lower().lstrip('.')}" if values.get("format") else own if own in FORMATS else ".mkv"
    if suffix not in FORMATS:
        raise OptionError(f"format: expected one of {', '.join(known[1:] for known in FORMATS)}")
    on_error = next((known for known in ON_ERROR if known == values.get("on_error", "stop")), None)
    if on_error is None:
        raise OptionError(f"on_error: expected one of {', '.join(ON_ERROR)}")
    precision = parse_precision(values.get("precision"))
    return ClipOrder(target, values["model"], precision, suffix, VideoOptions(on_error=on_error), values)
