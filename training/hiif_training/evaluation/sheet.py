"""Draws a sheet of crops side by side: truth, bicubic, model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hiif_training.pictures.picture_sets import Pair
from hiif_training.pictures.resize import upscale_bicubic

Pixels = NDArray[np.uint8]
SIDE = 96
"""Side of a panel in pixels of the truth."""
ZOOM = 3
GAP, HEAD = 8, 26
MAX_ROWS = 8


@dataclass(frozen=True)
class SheetRow:
    """One picture: the crop with the largest bicubic error, in three versions."""

    title: str
    """Name of the picture and scale."""
    panels: tuple[Pixels, Pixels, Pixels]
    """RGB crops [side, side, 3] of truth, bicubic and model."""


def sheet_row(pair: Pair, output: NDArray[np.float32], scale: float) -> SheetRow:
    """Return the row for a model's output [H, W, 3] in [0, 1]."""
    size = (pair.truth.shape[0], pair.truth.shape[1])
    bicubic = np.rint(upscale_bicubic(pair.low, size) * 255).astype(np.uint8)
    large = np.rint(output * 255).astype(np.uint8)
    top, left, side = worst_part(bicubic, pair.truth)
    part = (slice(top, top + side), slice(left, left + side))
    return SheetRow(f"{pair.name} x{scale:g}", (pair.truth[part], bicubic[part], large[part]))


def worst_part(found: Pixels, truth: Pixels) -> tuple[int, int, int]:
    """Return (top, left, side) of the square where [H, W, 3] pictures differ most, on a grid of half squares."""
    error = np.square(found.astype(np.float64) - truth).sum(axis=2)
    side = min(SIDE, *error.shape)
    places = [
        (float(error[top : top + side, left : left + side].sum()), top, left)
        for top in range(0, error.shape[0] - side + 1, max(1, side // 2))
        for left in range(0, error.shape[1] - side + 1, max(1, side // 2))
    ]
    _, top, left = max(places)
    return top, left, side


def draw_sheet(rows: Sequence[SheetRow], model: str) -> Pixels:
    """Return the sheet [H, W, 3] with a title line; at most the first `MAX_ROWS` rows."""
    panel = SIDE * ZOOM
    shown = rows[:MAX_ROWS]
    sheet = Image.new("RGB", (3 * panel + 4 * GAP, HEAD + len(shown) * (panel + HEAD)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, title in enumerate(("truth", "bicubic", model)):
        draw.text((GAP + column * (panel + GAP), 4), title, fill="black", font=font)
    for number, row in enumerate(shown):
        top = HEAD + number * (panel + HEAD)
        for column, pixels in enumerate(row.panels):
            picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((panel, panel), Image.Resampling.NEAREST)
            sheet.paste(picture, (GAP + column * (panel + GAP), top))
        draw.text((GAP, top + panel + 2), row.title, fill="black", font=font)
    return np.asarray(sheet)
