"""Test sets: pairs of a small picture and the truth, from folders or downscaled by a rule (design/model.md E1, E2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import ImageError
from hiif_deploy.images.io import SUFFIXES, read_image
from hiif_training.pictures.resize import LowRule, shrink

LAYOUTS = (("HR", "LR_bicubic"), ("DIV2K_valid_HR", "DIV2K_valid_LR_bicubic"))
"""Folder of large pictures, and folder beside it with the small ones in X2, X3, X4."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """One test picture at one scale."""

    name: str
    """Name of the large picture's file without its suffix."""
    low: Pixels
    """RGB input [h, w, 3] of the model."""
    truth: Pixels
    """RGB ground truth [H, W, 3]: the large picture cropped to the scale."""
    source: str
    """Origin of the small picture: `folder`, or the downscaling rule `matlab` or `pil`."""


@dataclass(frozen=True)
class PictureSet:
    """A folder of pictures, or `HR/` with `LR_bicubic/X{s}/` beside it, or DIV2K's validation folders."""

    folder: Path
    """Folder that contains the set."""
    rule: LowRule | None = None
    """Rule that makes every small picture; None reads those of the folder and makes missing ones by Pillow's rule."""
    limit: int | None = None
    """Number of pictures to use, in the order of their names; None for all."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ImageError(f"{self.folder}: no pictures found, neither there nor in {self.folder / 'HR'}")

    @property
    def name(self) -> str:
        """Name of the set's folder."""
        return self.folder.resolve().name

    @property
    def paths(self) -> list[Path]:
        """Files of the large pictures, sorted by name."""
        high, _ = self._folders()
        found = sorted(p for p in high.glob("*") if p.suffix.lower() in SUFFIXES) if high.is_dir() else []
        return found[: self.limit]

    def pairs(self, scale: float) -> Iterator[Pair]:
        """Yield every picture of the set at that scale."""
        for path in self.paths:
            yield make_pair(path, read_rgb(path), self._low(path, scale), scale, self.rule or "pil")

    def _low(self, path: Path, scale: float) -> Pixels | None:
        """Return the small picture that the set contains; ImageError where this one alone is missing at its scale."""
        _, low = self._folders()
        if self.rule is not None or low is None or scale != int(scale) or not (low / f"X{int(scale)}").is_dir():
            return None
        return read_rgb(low / f"X{int(scale)}" / f"{path.stem}x{int(scale)}{path.suffix}")

    def _folders(self) -> tuple[Path, Path | None]:
        for high, low in LAYOUTS:
            if (self.folder / high).is_dir():
                return self.folder / high, self.folder / low
        return self.folder, None


def make_pair(path: Path, high: Pixels, low: Pixels | None, scale: float, rule: LowRule) -> Pair:
    """Crop [H, W, 3] to the area of [h, w, 3] at `scale`, downscaling where `low` is None; ImageError where it is too
    small."""
    height, width = high.shape[:2]
    small = (math.floor(height / scale + 1e-9), math.floor(width / scale + 1e-9)) if low is None else low.shape[:2]
    size = (round(small[0] * scale), round(small[1] * scale))
    if min(small) < 1 or size[0] > height or size[1] > width:
        raise ImageError(f"{path}: {width}x{height} does not hold {small[1]}x{small[0]} at ×{scale:g}")
    truth = high[: size[0], : size[1]]
    if low is not None:
        return Pair(path.stem, low, truth, "folder")
    return Pair(path.stem, shrink(truth, (small[0], small[1]), rule), truth, rule)


def read_rgb(path: Path) -> Pixels:
    """Read a picture as RGB [H, W, 3] uint8; grey is repeated in all channels. ImageError for 16 bits."""
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8:
        raise ImageError(f"{path}: {pixels.dtype}; the published protocol knows 8-bit pictures only")
    return np.asarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))
