"""Pictures → training samples: (low-resolution crop, queries, colours), each decided by (seed, number) alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from hiif_deploy.errors import ImageError
from hiif_deploy.grid import BitRule
from hiif_deploy.images import SUFFIXES
from hiif_training.queries import Queries, scattered_queries
from hiif_training.recipe import Recipe


@dataclass(frozen=True)
class Sample:
    """B crops with their queries."""

    image: Tensor
    """[B, 3, patch, patch] float32 in [-1, 1]."""
    queries: Queries
    """patch² queries per crop, scattered over the high-resolution crop."""
    colours: Tensor
    """[B, patch², 3] float32 in [-1, 1]: what the decoder should answer."""

    @staticmethod
    def concatenate(samples: list[Sample]) -> Sample:
        """Joined along B."""
        return Sample(
            torch.cat([sample.image for sample in samples]),
            Queries.concatenate([sample.queries for sample in samples]),
            torch.cat([sample.colours for sample in samples]),
        )


class Crops(Dataset[Sample]):
    """Sample i is the same whenever and wherever it is drawn: that is what makes a resumed run exact."""

    def __init__(self, recipe: Recipe, *, levels: int, bits: BitRule) -> None:
        self.recipe = recipe
        self.levels = levels
        self.bits = bits

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, number: int) -> Sample:
        recipe = self.recipe
        random = np.random.default_rng((recipe.seed, number))
        picture = self.pictures[int(random.integers(len(self.pictures)))]
        limit = min(picture.size) / recipe.patch
        scale = random.uniform(recipe.scale[0], min(recipe.scale[1], limit))
        side = round(recipe.patch * scale)
        shrink = random.uniform(recipe.shrink[0], max(recipe.shrink[0], min(recipe.shrink[1], limit / scale)))
        high = _crop(picture, side, min(round(side * shrink), *picture.size), random)
        low = high.resize((recipe.patch, recipe.patch), Image.Resampling.BICUBIC)
        turn = random.integers(0, 2, 3)
        colours = to_tensor_domain(_turn(np.asarray(high), turn)).reshape(-1, 3)
        image = to_tensor_domain(_turn(np.asarray(low), turn)).transpose(2, 0, 1)
        pixels = random.choice(side * side, recipe.patch**2, replace=False)
        source, target = (recipe.patch, recipe.patch), (side, side)
        return Sample(
            torch.from_numpy(np.ascontiguousarray(image))[None],
            scattered_queries(source, target, pixels, levels=self.levels, bits=self.bits),
            torch.from_numpy(colours[pixels])[None],
        )

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """All pictures, decoded; ImageError names one that is unreadable or too small."""
        return [_load(path, self.recipe.patch) for path in find_pictures(self.recipe.data)]


def find_pictures(folders: tuple[str, ...]) -> list[Path]:
    """Picture files below `folders` in a fixed order; ImageError where there is none."""
    paths: list[Path] = []
    for folder in folders:
        found = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ImageError(f"{folder}: no pictures found; expected files ending in {', '.join(sorted(SUFFIXES))}")
        paths += found
    if not paths:
        raise ImageError("no training pictures: name at least one folder with --data or in the recipe")
    return paths


def to_tensor_domain(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [0, 255] → float32 [-1, 1]."""
    return picture.astype(np.float32) * np.float32(2 / 255) - np.float32(1)


def _load(path: Path, patch: int) -> Image.Image:
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: not a readable picture ({error}); remove it from the training folder") from error
    if min(picture.size) < patch:
        raise ImageError(f"{path}: {picture.size[0]}x{picture.size[1]} is smaller than a {patch}-pixel crop")
    return picture


def _crop(picture: Image.Image, side: int, taken: int, random: np.random.Generator) -> Image.Image:
    """A random square of `taken` pixels, shrunk to `side`."""
    left = int(random.integers(picture.width - taken + 1))
    top = int(random.integers(picture.height - taken + 1))
    crop = picture.crop((left, top, left + taken, top + taken))
    return crop if taken == side else crop.resize((side, side), Image.Resampling.BICUBIC)


def _turn(picture: NDArray[np.uint8], turn: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Horizontal flip, vertical flip, transpose, each where its flag is 1."""
    if turn[0]:
        picture = picture[:, ::-1]
    if turn[1]:
        picture = picture[::-1]
    return picture.transpose(1, 0, 2) if turn[2] else picture
