"""Test sets: pairs of a small picture and the truth, from folders or made by a rule (design/model.md E1, E2)."""

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
"""Folders of large pictures, and of the small ones in X2, X3, X4 beside it."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """One test picture at one scale."""

    name: str
    """Of the large picture's file, without its ending."""
    low: Pixels
    """[h, w, 3]: what the model is given."""
    truth: Pixels
    """[H, W, 3]: what it should answer; the large picture cropped to the scale."""
    source: str
    """Where the small one is from: `folder`, or the rule it was made by, `matlab` or `pil`."""


@dataclass(frozen=True)
class PictureSet:
    """A folder of pictures, or `HR/` with `LR_bicubic/X{s}/` beside it, or DIV2K's validation folders."""

    folder: Path
    """Where it lies."""
    rule: LowRule | None = None
    """Makes every small picture; None takes those of the folder and makes missing ones by Pillow's rule."""
    limit: int | None = None
    """How many pictures are taken, in the order of their names."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ImageError(f"{self.folder}: no pictures found, neither there nor in {self.folder / 'HR'}")

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def paths(self) -> list[Path]:
        """Files of the large pictures."""
        high, _ = self._folders()
        found = sorted(p for p in high.glob("*") if p.suffix.lower() in SUFFIXES) if high.is_dir() else []
        return found[: self.limit]

    def pairs(self, scale: float) -> Iterator[Pair]:
        """Every picture at that scale."""
        for path in self.paths:
            yield make_pair(path, read_rgb(path), self._low(path, scale), scale, self.rule or "pil")

    def _low(self, path: Path, scale: float) -> Pixels | None:
        """The small picture that the set itself holds; ImageError where it holds some at this scale but not this."""
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
    """The large picture cropped to what the small one covers; ImageError where it is smaller than that."""
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
    """[H, W, 3] uint8; grey fills all three channels. ImageError for 16 bits."""
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8:
        raise ImageError(f"{path}: {pixels.dtype}; the published protocol knows 8-bit pictures only")
    return np.asarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))
