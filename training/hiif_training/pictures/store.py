"""Training pictures: found, checked by their headers, decoded on first use, cached within a memory budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hiif_deploy.errors import ImageError
from hiif_deploy.images.io import SUFFIXES

DIV2K_TRAIN = "DIV2K_train_HR"
"""Name of the training folder in DIV2K's archive; a folder that contains it is searched there only."""
BYTES_PER_PIXEL = 4
"""Memory of a pixel in Pillow's RGB pictures, which pad it."""
_UNREADABLE = (OSError, SyntaxError, ValueError)
_SHOWN = 5


class PictureStore:
    """Pictures by number. Decoded ones are cached until `budget` bytes are full; later ones are decoded each time.

    With uniformly drawn pictures no eviction order does better, and nothing has to be tracked.
    """

    def __init__(self, paths: Sequence[Path], budget: int) -> None:
        self.paths = list(paths)
        self._free = budget
        self._kept: dict[int, Image.Image | None] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def get(self, number: int) -> Image.Image | None:
        """Return the RGB picture [H, W, 3], or None where its file is damaged."""
        if number in self._kept:
            return self._kept[number]
        picture = _decode(self.paths[number])
        size = 0 if picture is None else BYTES_PER_PIXEL * picture.width * picture.height
        if size <= self._free:
            self._free -= size
            self._kept[number] = picture
        return picture


def find_pictures(folders: tuple[str, ...]) -> list[Path]:
    """Return picture files below `folders` in a fixed order; ImageError where there is none."""
    paths: list[Path] = []
    for folder in folders:
        root = Path(folder) / DIV2K_TRAIN if (Path(folder) / DIV2K_TRAIN).is_dir() else Path(folder)
        found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ImageError(f"{folder}: no pictures found; expected files ending in {', '.join(sorted(SUFFIXES))}")
        paths += found
    if not paths:
        raise ImageError("no training pictures: name at least one folder with --data or in the recipe")
    return paths


def check_sizes(paths: Sequence[Path], side: int) -> int:
    """Return the total pixels of all pictures, by their headers; ImageError names those with a side below `side`
    pixels.

    A file whose header cannot be read counts as none: it is reported and skipped when it is drawn.
    """
    sizes = {path: _size(path) for path in paths}
    small = [f"{path} ({size[0]}x{size[1]})" for path, size in sizes.items() if size and min(size) < side]
    if small:
        listed = ", ".join(small[:_SHOWN]) + (", …" if len(small) > _SHOWN else "")
        raise ImageError(f"{len(small)} pictures are smaller than a {side}-pixel crop: {listed}; remove them")
    return sum(size[0] * size[1] for size in sizes.values() if size)


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as file:
            return file.size
    except _UNREADABLE:
        return None


def _decode(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except _UNREADABLE:
        return None
