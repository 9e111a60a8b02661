"""What a benchmark is about: models, a picture, a size; and what a way of enlarging it must be able to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.loader import DEFAULT_MODEL, Bundle, open_bundle
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.images.samples import sample
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.install import install_command
from hiif_deploy.support.resolve import registered

Image = NDArray[np.uint8]
ENTRY_POINTS = "hiif_deploy.bench_models"
"""Name → what makes the model; it needs PyTorch and belongs to the area that has it."""
FULL = "full"
"""The full-size architecture with random weights."""


@dataclass(frozen=True)
class BenchModel:
    """A bundle to measure, with its checkpoint where there is one."""

    name: str
    """For people."""
    bundle: Bundle
    """Its graphs."""
    checkpoint: Path | None = None
    """Its weights in PyTorch's form. None: PyTorch's ways are timed with random weights, and deviations left out."""
    remark: str = ""
    """What a reader of its figures must know."""


@dataclass(frozen=True)
class Work:
    """Multiplications and bytes of one picture, encoder included."""

    macs: int
    """Multiplications of matrix products and convolutions, each with its addition."""
    bytes: int
    """Of all tensors that operations read and write, weights included, caches not considered."""

    def __add__(self, other: Self) -> Self:
        return replace(self, macs=self.macs + other.macs, bytes=self.bytes + other.bytes)

    def __rmul__(self, times: int) -> Self:
        return replace(self, macs=times * self.macs, bytes=times * self.bytes)


class Runner(Protocol):
    """One way to enlarge pictures, opened."""

    @property
    def detail(self) -> str:
        """Engine, chunk size and whatever else decides its speed, for people."""
        ...

    @property
    def resolved(self) -> str:
        """Name of the variant with all that was found out by measuring, so that another process need not."""
        ...

    @property
    def arithmetic(self) -> ComputePrecision:
        """Precision of the matrix products."""
        ...

    def upscale(self, image: Image, size: Size) -> Image:
        """[h, w, 3] → [H, W, 3], as a user calls it: this is what is timed."""
        ...

    def colours(self, image: Image, size: Size) -> NDArray[Any]:
        """[H, W, 3] floats before clamping and rounding, 1 being white."""
        ...

    def stages(self) -> Mapping[str, float]:
        """Seconds of each stage of the last `upscale`; they sum up to all of it. Empty where nothing is known."""
        ...

    def work(self, image: Image, size: Size) -> Work | None:
        """Counted, not timed; None where that is not possible."""
        ...

    def close(self) -> None:
        """End the threads and free the memory."""
        ...


Opener = Callable[[BenchModel, int, int | None], Runner]
"""(model, threads, queries per call or None for what is best) → a way to enlarge pictures. Raises HiifError where it
cannot be had here."""


def picture(source: Size) -> Image:
    """A sample of that (height, width)."""
    height, width = source
    resized = cv2.resize(sample("astronaut"), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def open_model(location: str, checkpoint: Path | None, *, show_progress: bool) -> BenchModel:
    """A bundle, a shipped model, or `full`. HiifError where it cannot be had."""
    if location != FULL:
        return BenchModel(location, open_bundle(location), checkpoint)
    if checkpoint is not None:
        raise OptionError("--checkpoint belongs to a bundle that was exported from it; name that bundle")
    require_extra("export")
    make = registered(ENTRY_POINTS, FULL)
    if make is None:
        raise OptionError(f"model {FULL} is not registered; install this project again: {install_command('export')}")
    made: BenchModel = make(show_progress=show_progress)
    return made


def default_models() -> tuple[str, ...]:
    """Models that are measured where none is named."""
    return FULL, DEFAULT_MODEL
