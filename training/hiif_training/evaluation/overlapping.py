"""Upscales a picture in overlapping tiles and averages their outputs, as CiaoSR's published evaluation does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.plan import tile_starts
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size

Frame = NDArray[np.uint8]
Colours = NDArray[np.float32]


@dataclass(frozen=True)
class Tiles:
    """Size and overlap of the tiles of a small picture."""

    side: int
    """Side of a tile in source pixels; smaller where the picture is smaller."""
    overlap: int
    """Source pixels that neighbours share; more for the last tile, which ends at the picture's border."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.side:
            raise OptionError(f"tiles of {self.side} pixels with an overlap of {self.overlap}: expected less overlap")

    def starts(self, size: int, side: int) -> list[int]:
        """Return the first pixel of every tile of `side` pixels along an axis of `size`."""
        return tile_starts(size, side, self.overlap)


def upscale_overlapping(upscale: Callable[[Frame, Size], Colours], low: Frame, target: Size, tiles: Tiles) -> Colours:
    """Upscale [h, w, 3] to [H, W, 3] by an integer factor: each tile separately, outputs averaged where tiles
    overlap."""
    height, width = low.shape[:2]
    factor = target[0] // height
    if target != (factor * height, factor * width):
        raise OptionError(f"{width}x{height} to {target[1]}x{target[0]}: tiles are upscaled by whole factors only")
    side = min(tiles.side, height, width)
    total, count = np.zeros((*target, 3), dtype=np.float32), np.zeros((*target, 1), dtype=np.float32)
    for top in tiles.starts(height, side):
        for left in tiles.starts(width, side):
            part = (slice(factor * top, factor * (top + side)), slice(factor * left, factor * (left + side)))
            frame = np.ascontiguousarray(low[top : top + side, left : left + side])
            total[part] += upscale(frame, (factor * side, factor * side))
            count[part] += 1
    return total / count
