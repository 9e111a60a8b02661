"""The part of a picture that a request shows, and its pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2

from hiif_deploy.geometry.sizes import Region, Size
from hiif_deploy.pixels import Frame
from hiif_deploy.server.iiif.request import Crop
from hiif_deploy.server.web import RequestError

MAX_ZOOM = 64
"""Largest scale per axis: every size of a picture has statistics of its own, over the whole picture."""
Render = Callable[[Size, Region], Frame]
"""Level and region of it → pixels of the picture upscaled to that level."""


@dataclass(frozen=True)
class View:
    """A part of the whole picture at one size."""

    level: Size
    """(height, width) of the whole picture at the view's scale."""
    region: Region
    """(top, left, height, width) in pixels of the level; the last two are the size of the view."""

    @property
    def size(self) -> Size:
        """(height, width) of the view."""
        return self.region[2:]

    def needs_model(self, source: Size) -> bool:
        """Whether the view has more rows or columns than the source pixels that it shows."""
        return self.level[0] > source[0] or self.level[1] > source[1]


def view_of(source: Size, image: Size, crop: Crop, size: Size) -> View:
    """Return the view of a crop of an image (height, width) of a picture `source`, scaled to `size`.

    The tiles of one scale factor have one level, those at the edges too, so that each is a part of the same whole.
    Other requests have the whole image's size at their scale, rounded to pixels.
    """
    down, across = Fraction(size[0], crop.height), Fraction(size[1], crop.width)
    factor = -(-crop.height // size[0])
    if size == (-(-crop.height // factor), -(-crop.width // factor)) and not (crop.top % factor or crop.left % factor):
        level = -(-image[0] // factor), -(-image[1] // factor)
        top, left = crop.top // factor, crop.left // factor
    else:
        level = max(size[0], round(image[0] * down)), max(size[1], round(image[1] * across))
        top, left = round(crop.top * down), round(crop.left * across)
    if level[0] > MAX_ZOOM * source[0] or level[1] > MAX_ZOOM * source[1]:
        raise RequestError(400, f"size: it shows the picture at more than {MAX_ZOOM} times its size")
    return View(level, (min(top, level[0] - size[0]), min(left, level[1] - size[1]), *size))


def pixels_of(view: View, source: Frame, limit: int, render: Render) -> Frame:
    """Return the view's pixels: rendered where it has more than the source [H, W] or [H, W, 3], else the source's own,
    averaged where it has fewer. RequestError 400 where more than `limit` pixels would be rendered before averaging."""
    height, width = source.shape[:2]
    if not view.needs_model((height, width)):
        part = source[_source_part(view, 0, height), _source_part(view, 1, width)]
        return _reduced(part, view.size)
    # A model never shrinks: an axis that shrinks is rendered at the source's size, and averaged.
    level = max(view.level[0], height), max(view.level[1], width)
    rows, columns = _source_part(view, 0, level[0]), _source_part(view, 1, level[1])
    region = rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
    if region[2] * region[3] > limit:
        raise RequestError(400, "size: it shrinks one side and upscales the other beyond the limit of this server")
    part = render(level, region)
    return _reduced(part, view.size)


def _source_part(view: View, axis: int, length: int) -> slice:
    """Where the view lies along an axis of the whole picture that has `length` pixels."""
    start, count, level = view.region[axis], view.region[axis + 2], view.level[axis]
    if level == length:
        return slice(start, start + count)
    first = start * length // level
    return slice(first, max(first + 1, min(length, -(-(start + count) * length // level))))


def _reduced(part: Frame, size: Size) -> Frame:
    if part.shape[:2] == size:
        return part
    result: Any = cv2.resize(part, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return result  # type: ignore[no-any-return]
