"""The protocol of an opened bundle on one engine."""

from collections.abc import Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

from hiif_deploy.backends.engines import EngineSpec
from hiif_deploy.decoding.decoder import Decoder
from hiif_deploy.decoding.job import Advance, Job, Statistics, Window
from hiif_deploy.decoding.plan import Plan, PlanLimits
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pixels import Frame


class DeviceFeatures(Protocol):
    """Features that an engine keeps where it computes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy on the host."""
        ...


Encoded = NDArray[Any] | DeviceFeatures
"""Features [C, h, w], on the host or on a GPU; `numpy.asarray` brings both to the host."""


class Backend(Protocol):
    """An opened bundle on one engine. Methods may be called from several threads.

    >>> plan = backend.plan((frame.shape[0], frame.shape[1]), PlanLimits())
    >>> job = Job(contract, backend.encode(frame, plan, ignore), frame, size, plan, cell)
    >>> for rows, columns, values in backend.frames(job, window, backend.statistics(job, window)):
    ...     output[rows, columns] = values

    Frames that are passed in are only read, until the features made from them are no longer used. Values that are
    yielded belong to the caller. Features belong to the backend that made them and end with it.
    """

    engine: EngineSpec
    """What the engine can do."""
    description: str
    """Engine, precision and device, for people."""

    @property
    def precision(self) -> ComputePrecision:
        """Precision of the matrix products."""
        ...

    @property
    def fallback_blocks(self) -> int:
        """Blocks of queries that overflowed in fp16 and were recomputed in fp32."""
        ...

    @property
    def memory_bytes(self) -> int:
        """GPU memory held; 0 where there is none."""
        ...

    def plan(self, source: Size, limits: PlanLimits) -> Plan:
        """How a picture of (height, width) is cut. OptionError where the limits are too tight for it."""
        ...

    def encode(self, frame: Frame, plan: Plan, advance: Advance) -> Encoded:
        """Frame [h, w, 1 or 3] uint8, uint16, or float32 in [0, 1] → features. `advance` is called with 1 per tile."""
        ...

    def statistics(self, job: Job, window: Window) -> Statistics:
        """All statistics passes over the queries of `window`."""
        ...

    def frames(self, job: Job, window: Window, statistics: Statistics) -> Iterator[tuple[slice, slice, Frame]]:
        """Yields (rows, columns) within `window` and finished values [r, c, 1 or 3] of the type of the job's frame.

        NotAPictureError where the values are NaN, infinite, or no colours.
        """
        ...

    def close(self) -> None:
        """End the threads and free the memory."""
        ...


class DecoderBackend:
    """Base of backends that decode with `Decoder`: everything behind the encoder."""

    decoder: Decoder

    def statistics(self, job: Job, window: Window) -> Statistics:
        """See `Backend`."""
        return self.decoder.statistics(job, window)

    def frames(self, job: Job, window: Window, statistics: Statistics) -> Iterator[tuple[slice, slice, Frame]]:
        """See `Backend`."""
        return self.decoder.frames(job, window, statistics)
