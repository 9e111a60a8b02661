"""Pictures → training samples: (low-resolution crop, queries, colours), each determined by (seed, number) alone."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from hiif_deploy.errors import ImageError, OptionError
from hiif_training.models.implicit import ModelTraits
from hiif_training.pictures.degradations import downscale
from hiif_training.pictures.store import PictureStore, find_pictures
from hiif_training.queries.axis import QueryMaker, TensorFields, joined_fields, moved
from hiif_training.training.recipe import Recipe

Turn = tuple[int, int, int]
"""Whether a square is flipped horizontally, then vertically, then transposed."""
TURNS: tuple[Turn, ...] = tuple(itertools.product((0, 1), (0, 1), (0, 1)))
"""All symmetries of a square, the identity first."""
_ATTEMPTS = 100
"""Draws after which a folder of damaged pictures is given up."""


@dataclass(frozen=True)
class Sample:
    """B crops with their queries and colours."""

    image: Tensor
    """[B, 3, patch, patch] float32, normalised: in [-1, 1] for most decoders."""
    queries: TensorFields
    """The recipe's number per crop, scattered over the high-resolution crop; all pixels for a fixed-scale model."""
    colours: Tensor
    """[B, N, 3] float32, normalised likewise: the decoder's target."""
    damaged: frozenset[str] = frozenset()
    """Files that could not be read while these crops were drawn; others replaced them."""
    teacher_queries: tuple[TensorFields, ...] | None = None
    """The same queries as the recipe's teacher takes them, for each turn of the crop that it sees; None without one."""
    features: Tensor | None = None
    """[B, C, patch, patch] float32: what the frozen encoder makes of `image`, where it is kept."""
    taught: Tensor | None = None
    """[B, N, 3] float32: the teacher's output, where it is kept."""

    def to(self, device: torch.device) -> Sample:
        """Return a copy with all tensors on `device`."""
        return replace(self, **{name: moved(value, device) for name, value in vars(self).items()})

    @staticmethod
    def concatenate(samples: list[Sample]) -> Sample:
        """Join samples along B into one."""
        damaged = frozenset[str]().union(*(sample.damaged for sample in samples))
        joined = {name: joined_fields([vars(sample)[name] for sample in samples]) for name in vars(samples[0])}
        return Sample(**{**joined, "damaged": damaged})


class Crops(Dataset[Sample]):
    """Data set of samples. Sample i is always the same, which makes a resumed run exact."""

    def __init__(
        self,
        recipe: Recipe,
        make_queries: QueryMaker,
        traits: ModelTraits | None = None,
        *,
        cache: int = 1 << 30,
        teacher_queries: QueryMaker | None = None,
    ) -> None:
        """`make_queries` and `traits` are the model's; `cache` limits the bytes of decoded pictures per process."""
        self.recipe = recipe
        self.cache = cache
        self.make_queries = make_queries
        self.teacher_queries = teacher_queries
        self.traits = traits or ModelTraits()
        fixed = self.traits.fixed_scale
        if fixed is not None and recipe.scale != (fixed, fixed):
            raise OptionError(
                f"recipe: scale is {list(recipe.scale)}, and the model upscales ×{fixed} only: leave it out"
            )

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch

    def __getitem__(self, number: int) -> Sample:
        recipe = self.recipe
        random = np.random.default_rng((recipe.seed, number))
        picture, damaged = self._draw(random)
        limit = min(picture.size) / recipe.patch
        scale = random.uniform(recipe.scale[0], min(recipe.scale[1], limit))
        side = round(recipe.patch * scale)
        shrink = random.uniform(recipe.shrink[0], max(recipe.shrink[0], min(recipe.shrink[1], limit / scale)))
        high = _crop(picture, side, min(round(side * shrink), *picture.size), random)
        # A generator of its own: degradations do not change which crops are drawn.
        low = downscale(high, recipe.patch, recipe.degrade, np.random.default_rng((recipe.seed, number, 1)))
        turn = random.integers(0, 2, 3)
        colours = to_tensor_domain(_turn(np.asarray(high), turn), self.traits).reshape(-1, 3)
        image = to_tensor_domain(_turn(low, turn), self.traits).transpose(2, 0, 1)
        pixels = np.arange(side * side)
        if self.traits.fixed_scale is None:
            pixels = random.choice(side * side, recipe.queries or recipe.patch**2, replace=False)
        source, target = (recipe.patch, recipe.patch), (side, side)
        return Sample(
            torch.from_numpy(np.ascontiguousarray(image))[None],
            self.make_queries(source, target, pixels),
            torch.from_numpy(colours[pixels])[None],
            damaged,
            self._taught_queries(pixels, side),
        )

    def _taught_queries(self, pixels: NDArray[np.int64], side: int) -> tuple[TensorFields, ...] | None:
        if self.teacher_queries is None:
            return None
        source, target = (self.recipe.patch, self.recipe.patch), (side, side)
        return tuple(
            self.teacher_queries(source, target, turned_pixels(pixels, side, turn)) for turn in turns_of(self.recipe)
        )

    @cached_property
    def pictures(self) -> PictureStore:
        """Pictures from which samples are drawn."""
        return PictureStore(find_pictures(self.recipe.data), self.cache)

    def _draw(self, random: np.random.Generator) -> tuple[Image.Image, frozenset[str]]:
        """Return a picture, and the damaged files drawn before it. Which files are damaged is equal on every
        machine."""
        damaged: set[str] = set()
        for _ in range(_ATTEMPTS):
            number = int(random.integers(len(self.pictures)))
            picture = self.pictures.get(number)
            if picture is not None:
                return picture, frozenset(damaged)
            damaged.add(str(self.pictures.paths[number]))
        raise ImageError(
            f"{len(damaged)} training pictures could not be read, {min(damaged)} among them, and no readable one "
            f"turned up in {_ATTEMPTS} draws; look at the folder"
        )


class StepBatchSampler(BatchSampler):
    """Sample numbers of one of `processes`: step n is samples [n·batch, (n + 1)·batch), whoever draws them.

    Each step is split into `accumulate` parts of `processes` equal shares, so no sample is drawn twice in a step.
    """

    def __init__(self, recipe: Recipe, *, first_step: int = 0, process: int = 0, processes: int = 1) -> None:
        parts = recipe.accumulate * processes
        if recipe.batch % parts:
            raise OptionError(
                f"batch {recipe.batch} cannot be shared by {processes} processes in {recipe.accumulate} parts each; "
                f"choose a multiple of {parts}: --set batch={recipe.batch - recipe.batch % parts + parts}"
            )
        self.recipe = recipe
        self.first_step = first_step
        self.process = process
        self.processes = processes
        self.share = recipe.batch // parts
        """Crops in one part of one process."""

    def __len__(self) -> int:
        """Return the parts of the whole run, those before `first_step` included."""
        return self.recipe.steps * self.recipe.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for part in range(self.first_step * self.recipe.accumulate, len(self)):
            start = (part * self.processes + self.process) * self.share
            yield list(range(start, start + self.share))


class SampleLoader(DataLoader[Sample]):
    """Loads joined samples in the order of `StepBatchSampler`; the first step alone determines the position."""

    def __init__(
        self, crops: Crops, step_sampler: StepBatchSampler, workers: int, *, samples: Dataset[Sample] | None = None
    ) -> None:
        """`samples` take the place of `crops`, where these are used several times."""
        self.crops = crops
        self.step_sampler = step_sampler
        super().__init__(
            crops if samples is None else samples,
            batch_sampler=step_sampler,
            collate_fn=Sample.concatenate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_ignore_ctrl_c,
            # Samples never use the global generators; a generator of its own leaves their state untouched.
            generator=torch.Generator().manual_seed(crops.recipe.seed),
        )

    def state_dict(self) -> dict[str, int]:
        """Empty: its presence tells Lightning that the loader can resume within an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Required by Lightning; there is nothing to restore."""


def _ignore_ctrl_c(_: int) -> None:
    # A terminal sends Ctrl-C to workers as well, but it is the run that decides when to stop, and it needs them to
    # finish its step. SIGTERM stays as PyTorch handles it in workers: it is how they are ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def to_tensor_domain(picture: NDArray[np.uint8], traits: ModelTraits) -> NDArray[np.float32]:
    """Normalise RGB uint8 [h, w, 3] to float32 [h, w, 3]: (x / 255 − mean) / std."""
    mean, std = np.array(traits.mean), np.array(traits.std)
    scale, shift = (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)
    tensor: NDArray[np.float32] = picture.astype(np.float32) * scale - shift
    return tensor


def turns_of(recipe: Recipe) -> tuple[Turn, ...]:
    """Return the turns of a crop over which the recipe's teacher averages."""
    return TURNS if recipe.teacher_ensemble else TURNS[:1]


def turned(image: Tensor, turn: Turn) -> Tensor:
    """Turn square pictures [..., n, n]."""
    image = image.flip(-1) if turn[0] else image
    image = image.flip(-2) if turn[1] else image
    return image.transpose(-1, -2) if turn[2] else image


def turned_pixels(pixels: NDArray[np.int64], side: int, turn: Turn) -> NDArray[np.int64]:
    """Return where row-major pixels [N] of a square of `side` pixels are after a turn."""
    row, column = np.divmod(pixels, side)
    column = side - 1 - column if turn[0] else column
    row = side - 1 - row if turn[1] else row
    return column * side + row if turn[2] else row * side + column


def _crop(picture: Image.Image, side: int, taken: int, random: np.random.Generator) -> Image.Image:
    """Return a random square of `taken` pixels, downscaled to `side`."""
    left = int(random.integers(picture.width - taken + 1))
    top = int(random.integers(picture.height - taken + 1))
    crop = picture.crop((left, top, left + taken, top + taken))
    return crop if taken == side else crop.resize((side, side), Image.Resampling.BICUBIC)


def _turn(picture: NDArray[np.uint8], turn: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Flip horizontally, flip vertically, transpose, each where its flag is 1."""
    if turn[0]:
        picture = picture[:, ::-1]
    if turn[1]:
        picture = picture[::-1]
    return picture.transpose(1, 0, 2) if turn[2] else picture
