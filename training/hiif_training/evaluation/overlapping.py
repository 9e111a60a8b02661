"""A picture enlarged in overlapping tiles whose answers are averaged, as CiaoSR is published."""

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
    """How small pictures are cut."""

    side: int
    """Source pixels of a tile's side; less where the picture is smaller."""
    overlap: int
    """Source pixels that neighbours share; more for the last one, which ends where the picture does."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.side:
            raise OptionError(f"tiles of {self.side} pixels with an overlap of {self.overlap}: expected less overlap")

    def starts(self, size: int, side: int) -> list[int]:
        """First pixel of every tile of `side` pixels along an axis of `size`."""
        return tile_starts(size, side, self.overlap)


def enlarge_overlapping(enlarge: Callable[[Frame, Size], Colours], low: Frame, target: Size, tiles: Tiles) -> Colours:
    """[h, w, 3] → [H, W, 3] by a whole factor: every tile enlarged for itself, answers averaged where tiles overlap."""
    height, width = low.shape[:2]
    factor = target[0] // height
    if target != (factor * height, factor * width):
        raise OptionError(f"{width}x{height} to {target[1]}x{target[0]}: tiles are enlarged by whole factors only")
    side = min(tiles.side, height, width)
    total, count = np.zeros((*target, 3), dtype=np.float32), np.zeros((*target, 1), dtype=np.float32)
    for top in tiles.starts(height, side):
        for left in tiles.starts(width, side):
            part = (slice(factor * top, factor * (top + side)), slice(factor * left, factor * (left + side)))
            frame = np.ascontiguousarray(low[top : top + side, left : left + side])
            total[part] += enlarge(frame, (factor * side, factor * side))
            count[part] += 1
    return total / count
