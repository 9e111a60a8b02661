"""Requests of the IIIF Image API 3.0 as they are written in a URL. Whatever is malformed is refused with 400."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.images.encode import JPEG, PNG, TIFF, WEBP, Format
from hiif_deploy.server.models import BICUBIC, parse_precision
from hiif_deploy.server.web import RequestError

FORMATS: dict[str, Format] = {"jpg": JPEG, "png": PNG, "webp": WEBP, "tif": TIFF}
"""Suffixes of the standard; the first two are those of level 2."""
MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "tif": "image/tiff"}
QUALITIES = ("default", "color", "gray", "bitonal")
WHOLE, NUMBER = r"([0-9]{1,9})", r"([0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})"
IDENTIFIER = re.compile(r"([A-Za-z0-9._-]{1,200})(?:@([0-9]{1,2})x)?(?:@([A-Za-z0-9._-]{1,100}))?(?:@([a-z0-9]{4}))?")
MAX_FACTOR = 16
"""Largest factor of a virtual image."""

Quality = Literal["default", "color", "gray", "bitonal"]


@dataclass(frozen=True)
class Identifier:
    """`ID`, or a virtual image: `ID@8x`, `ID@8x@MODEL`, `ID@MODEL`; behind MODEL perhaps `@PRECISION`."""

    picture: str
    factor: int
    model: str | None
    """None: the default one."""
    precision: ComputePrecision | None
    """None: the server's own."""


@dataclass(frozen=True)
class Crop:
    """Part of an image in its pixels, cut to what lies inside."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Drawing:
    """What happens to the scaled part of an image."""

    turns: int
    """Quarters of a clockwise turn, after mirroring."""
    is_mirrored: bool
    quality: Quality
    format: str
    """Key of `FORMATS`."""


def parse_identifier(text: str) -> Identifier:
    """Parse an identifier. RequestError 400; 404 for one that has characters which no id has."""
    found = IDENTIFIER.fullmatch(text)
    if not found:
        raise RequestError(404, "there is no picture of that id")
    factor = int(found[2] or 1)
    if not 1 <= factor <= MAX_FACTOR:
        raise RequestError(400, f"the factor of a virtual image is {factor}: expected 1 to {MAX_FACTOR}")
    if found[3] == BICUBIC and found[4]:
        raise RequestError(400, f"{BICUBIC} has no precision")
    return Identifier(found[1], factor, found[3], parse_precision(found[4]))


def parse_region(text: str, image: Size) -> Crop:
    """Parse `full`, `square`, `x,y,w,h` or `pct:x,y,w,h` for an image of (height, width)."""
    height, width = image
    if text == "full":
        return Crop(0, 0, width, height)
    if text == "square":
        side = min(image)
        return Crop((width - side) // 2, (height - side) // 2, side, side)
    if found := re.fullmatch(f"{WHOLE},{WHOLE},{WHOLE},{WHOLE}", text):
        left, top, across, down = map(int, found.groups())
    elif found := re.fullmatch(f"pct:{NUMBER},{NUMBER},{NUMBER},{NUMBER}", text):
        shares = [Fraction(value) / 100 for value in found.groups()]
        left, top, across, down = (round(share * side) for share, side in zip(shares, (width, height) * 2, strict=True))
    else:
        raise RequestError(400, "region: expected full, square, x,y,w,h or pct:x,y,w,h")
    across, down = min(across, width - left), min(down, height - top)
    if across < 1 or down < 1:
        raise RequestError(400, "region: it has no pixels inside the image")
    return Crop(left, top, across, down)


def parse_size(text: str, crop: Crop, max_area: int | None, limit: int) -> Size:
    """Return (height, width) for `max`, `w,`, `,h`, `pct:n`, `w,h` or `!w,h`, with `^` where it may exceed the region.

    `max_area` is what info.json says, where it says so; `limit` the most pixels of a response.
    """
    upscales, form = text.startswith("^"), text.removeprefix("^")
    if form == "max":
        return _largest(crop, max_area, upscales=upscales)
    width, height = _stated(form, crop, limit)
    if min(width, height) < 1:
        raise RequestError(400, "size: the result would have no pixels")
    if not upscales and (width > crop.width or height > crop.height):
        raise RequestError(400, "size: it exceeds the region; write ^ before it to upscale")
    if width * height > limit:
        raise RequestError(400, f"size: {width}x{height} pixels, and this server gives {limit:,} in one response")
    return height, width


def parse_rotation(text: str) -> tuple[bool, int]:
    """Return whether the image is mirrored, and the quarter turns of `0`, `90`, `180`, `270` or `360`."""
    found = re.fullmatch(r"(!?)([0-9]{1,3})(?:\.0{1,9})?", text)
    if not found or int(found[2]) > 360 or int(found[2]) % 90:
        raise RequestError(400, "rotation: expected 0, 90, 180 or 270, with ! before it to mirror")
    return bool(found[1]), int(found[2]) // 90 % 4


def parse_drawing(rotation: str, last: str) -> Drawing:
    """Parse the rotation, and the last part of the path, `quality.format`."""
    is_mirrored, turns = parse_rotation(rotation)
    quality, _, format_ = last.partition(".")
    if format_ not in FORMATS:
        raise RequestError(400, f"format: expected one of {', '.join(FORMATS)}")
    for known in QUALITIES:
        if quality == known:
            return Drawing(turns, is_mirrored, known, format_)  # type: ignore[arg-type]
    raise RequestError(400, f"quality: expected one of {', '.join(QUALITIES)}")


def canonical_region(crop: Crop, image: Size) -> str:
    """Return the canonical form of a region."""
    if (crop.height, crop.width) == image:
        return "full"
    return f"{crop.left},{crop.top},{crop.width},{crop.height}"


def canonical_size(size: Size, crop: Crop) -> str:
    """Return the canonical form of a size that `max` does not give."""
    height, width = size
    return f"{'^' if height > crop.height or width > crop.width else ''}{width},{height}"


def canonical_drawing(drawing: Drawing, *, is_grey: bool) -> str:
    """Return the canonical form of rotation, quality and format; a picture's own colours are `default`."""
    quality = "default" if drawing.quality == ("gray" if is_grey else "color") else drawing.quality
    return f"{'!' if drawing.is_mirrored else ''}{90 * drawing.turns}/{quality}.{drawing.format}"


def check_form(region: str, size: str) -> None:
    """RequestError 400 where region or size is malformed, whatever the image: before it is looked up."""
    anything = Crop(0, 0, 1, 1)
    if region not in ("full", "square") and not re.fullmatch(f"(pct:)?{NUMBER}(,{NUMBER}){{3}}", region):
        raise RequestError(400, "region: expected full, square, x,y,w,h or pct:x,y,w,h")
    if size.removeprefix("^") != "max":
        _stated(size.removeprefix("^"), anything, 1)


def _stated(form: str, crop: Crop, most: int) -> tuple[int, int]:
    """(width, height) of a size without `^`. `!w,h` is as large as it can be within `most` pixels."""
    if found := re.fullmatch(f"{WHOLE},", form):
        width = int(found[1])
        return width, _share(crop.height, width, crop.width)
    if found := re.fullmatch(f",{WHOLE}", form):
        height = int(found[1])
        return _share(crop.width, height, crop.height), height
    if found := re.fullmatch(f"{WHOLE},{WHOLE}", form):
        return int(found[1]), int(found[2])
    if found := re.fullmatch(f"!{WHOLE},{WHOLE}", form):
        factor = min(Fraction(int(found[1]), crop.width), Fraction(int(found[2]), crop.height))
        width, height = _scaled(crop, factor)
        return (width, height) if width * height <= most else _within(crop, most)[::-1]
    if found := re.fullmatch(f"pct:{NUMBER}", form):
        return _scaled(crop, Fraction(found[1]) / 100)
    raise RequestError(400, "size: expected max, w, ,h pct:n w,h or !w,h, with ^ before it to upscale")


def _scaled(crop: Crop, factor: Fraction) -> tuple[int, int]:
    """(width, height) of a crop times a factor; at least 1 where that is not 0."""
    numbers = factor.numerator, factor.denominator
    return _share(crop.width, *numbers), _share(crop.height, *numbers)


def _share(side: int, numerator: int, denominator: int) -> int:
    """A side times a factor, rounded; at least 1 where the factor is not 0."""
    return max(min(1, numerator), round(Fraction(side * numerator, denominator)))


def _largest(crop: Crop, max_area: int | None, *, upscales: bool) -> Size:
    """The size of `max`, or of `^max`."""
    area = crop.width * crop.height
    if max_area is None or (area <= max_area and not upscales):
        return crop.height, crop.width
    return _within(crop, max_area)


def _within(crop: Crop, most: int) -> Size:
    """The largest size of the crop's shape with at most so many pixels."""
    factor = math.sqrt(most / (crop.width * crop.height))
    return max(1, int(crop.height * factor)), max(1, int(crop.width * factor))
