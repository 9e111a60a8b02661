"""Crops that a run uses several times: what is costly and never changes is computed once and kept in a file.

That is the teacher's output and, where it is frozen, the encoder's features. Crops themselves are drawn again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hiif_deploy.errors import OptionError
from hiif_deploy.support.progress import Progress
from hiif_training.training.data import Crops, Sample
from hiif_training.training.recipe import Recipe

Fixed = Callable[[Sample], tuple[Tensor | None, Tensor | None]]
"""One crop → features [1, C, patch, patch] of a frozen encoder and the teacher's output [1, N, 3], float32; None for
what the run does not have."""
NAME = "crops-{}.f16"
logger = logging.getLogger(__name__)
_UNLIKE = ("steps", "save_every")
"""Keys of a recipe on which the contents of a kept crop do not depend."""


@dataclass(frozen=True)
class CropFile:
    """A file of float16 values, one record per crop: features [C, patch, patch], then the teacher's output [N, 3]."""

    path: Path
    features: tuple[int, ...]
    """Shape of a crop's features; empty where none are kept."""
    taught: tuple[int, ...]
    """Shape of the teacher's output for a crop; empty where none is kept."""

    @property
    def values(self) -> int:
        """Return the values per crop."""
        return sum(math.prod(shape) for shape in (self.features, self.taught) if shape)

    @property
    def count(self) -> int:
        """Return the crops that the file holds completely."""
        return self.path.stat().st_size // (2 * self.values) if self.path.exists() else 0

    def append(self, features: Tensor | None, taught: Tensor | None) -> None:
        """Write one more crop, over what an interrupted write left."""
        parts = [part.cpu().numpy().ravel() for part in (features, taught) if part is not None]
        with np.errstate(over="ignore"):
            record = np.concatenate(parts).astype(np.float16)
        if not np.isfinite(record).all():
            raise OptionError(f"{self.path}: features or colours beyond ±65504, the range of float16; leave out reuse")
        count = self.count
        with self.path.open("r+b" if self.path.exists() else "xb") as file:
            file.seek(count * record.nbytes)
            file.write(record.tobytes())

    def read(self, number: int) -> tuple[Tensor | None, Tensor | None]:
        """Return features [1, C, patch, patch] and the teacher's output [1, N, 3] of a crop, float32."""
        values = np.asarray(self._records[number], np.float32)
        split = math.prod(self.features) if self.features else 0
        features, taught = torch.from_numpy(values[:split]), torch.from_numpy(values[split:])
        return (
            features.view(1, *self.features) if self.features else None,
            taught.view(1, *self.taught) if self.taught else None,
        )

    @cached_property
    def _records(self) -> NDArray[np.float16]:
        return np.memmap(self.path, np.float16, "r", shape=(self.count, self.values))


class KeptCrops(Dataset[Sample]):
    """The samples of a run that draws each crop `reuse` times, in another order each time."""

    def __init__(self, crops: Crops, fixed: Fixed, folder: Path, steps: int | None = None) -> None:
        """`fixed` computes what is kept; its file lies in `folder`, which must exist. `steps`, by default all of the
        recipe, determine the number of crops."""
        recipe = crops.recipe
        self.crops = crops
        self._fixed = fixed
        self.count = crops_of(recipe, steps)
        self._first = fixed(crops[0])
        features, taught = self._first
        self.file = CropFile(folder / NAME.format(_key(recipe)), _shape(features), _shape(taught))
        # The teacher has answered already.
        self._drawn = copy.copy(crops)
        self._drawn.teacher_queries = None
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def fill(self, *, show_progress: bool = False) -> None:
        """Compute the crops that the file lacks, or all where the first one differs from the file's; OptionError where
        the disk has no room for them."""
        if self.file.count and not self._is_first():
            logger.warning("%s: made with other checkpoints or pictures; all crops are computed again", self.file.path)
            self.file.path.unlink()
        done = self.file.count
        needed, free = (self.count - done) * 2 * self.file.values, shutil.disk_usage(self.file.path.parent).free
        if needed > free:
            raise OptionError(
                f"{self.file.path}: {self.count:,} crops need {needed / 2**20:,.0f} MiB more, and the disk has "
                f"{free / 2**20:,.0f}; raise reuse, or lower steps, batch, patch or queries"
            )
        with Progress("computing crops", self.count, unit="crops", enabled=show_progress, start=done) as progress:
            for number in range(done, self.count):
                self.file.append(*self._fixed(self.crops[number]))
                progress.advance()

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, number: int) -> Sample:
        round_, place = divmod(number, self.count)
        if self._order[0] != round_:  # Each round has its own permutation of all crops.
            order = np.random.default_rng((self.crops.recipe.seed, round_, 2)).permutation(self.count)
            self._order = round_, order
        crop = int(self._order[1][place])
        features, taught = self.file.read(crop)
        return replace(self._drawn[crop], features=features, taught=taught)

    def _is_first(self) -> bool:
        """Whether the file begins with what is computed for the first crop, but for the rounding to float16."""
        pairs = zip(replace(self.file).read(0), self._first, strict=True)
        known = [(kept, own) for kept, own in pairs if kept is not None and own is not None]
        return all(bool((kept - own.cpu()).abs().max() <= 2**-9 * own.abs().max()) for kept, own in known)


def crops_of(recipe: Recipe, steps: int | None = None) -> int:
    """Return the number of different crops in a run of `steps`, by default all of the recipe."""
    return math.ceil((steps or recipe.steps) * recipe.batch / recipe.reuse)


def remove_kept_crops(folder: Path) -> None:
    """Delete the kept crops of a run."""
    for path in folder.glob(NAME.format("*")):
        path.unlink()


def _shape(value: Tensor | None) -> tuple[int, ...]:
    return () if value is None else tuple(value.shape[1:])


def _key(recipe: Recipe) -> str:
    """Return what tells the contents of one recipe's crops from another's."""
    values = {key: value for key, value in recipe.plain().items() if key not in _UNLIKE}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
