"""The protocol of an opened bundle on one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.job import Job, Statistics, Window
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.session import Arithmetic
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pixels import Frame, FrameFormat

Array = NDArray[np.float32]
Advance = Callable[[int], None]


class FeaturesElsewhere(Protocol):
    """Features that an engine keeps where it computes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy on the host."""
        ...


Encoded = NDArray[Any] | FeaturesElsewhere
"""Features [C, h, w], on the host or on a GPU; `numpy.asarray` brings both to the host."""


class Backend(Protocol):
    """An opened bundle on one engine. Methods may be called from several threads."""

    description: str
    """Engine, precision and device, for people."""

    @property
    def precision(self) -> Arithmetic:
        """What is computed in."""
        ...

    @property
    def rescued(self) -> int:
        """Blocks of queries whose answer was no number and which were decoded again in fp32 on the processor."""
        ...

    @property
    def memory_bytes(self) -> int:
        """GPU memory held; 0 where there is none."""
        ...

    def encode(self, image: Array, plan: Plan, advance: Advance) -> Encoded:
        """Unit picture [h, w, 3] → features."""
        ...

    def statistics(self, job: Job, window: Window, advance: Advance) -> Statistics:
        """All statistics passes over the queries of `window`."""
        ...

    def colours(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance
    ) -> Iterator[tuple[slice, slice, Array]]:
        """Yields (rows, columns) within `window` and unclamped colours [r, c, 3], 1 being white."""
        ...

    def steps(self, plan: Plan, source: Size, target: Size, windows: list[Window]) -> int:
        """How many steps `encode` and then all passes over these windows tell `advance` of."""
        ...

    def close(self) -> None:
        """End threads, free memory."""
        ...


@runtime_checkable
class FrameMaker(Protocol):
    """A backend that can make a frame's values itself, where the colours are."""

    def frames(
        self, job: Job, window: Window, statistics: Statistics, advance: Advance, like: FrameFormat
    ) -> Iterator[tuple[slice, slice, Frame]]:
        """What `Backend.colours` yields, clamped and rounded as `pixels.from_unit` does."""
        ...
