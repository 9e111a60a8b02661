"""Renders pictures with an opened backend: encode once, render any number of sizes and regions from the features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.base import Backend, Encoded
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.decoder import step_count
from hiif_deploy.decoding.job import Job, Statistics, Window, ignore
from hiif_deploy.decoding.output_check import check_not_black
from hiif_deploy.decoding.plan import DEFAULT_BUDGET, Plan, PlanLimits
from hiif_deploy.decoding.sampling import Sampling, enough
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.decoding.state_cache import StateCache
from hiif_deploy.errors import EngineError, OptionError
from hiif_deploy.geometry.grid import relative_cell
from hiif_deploy.geometry.sizes import (
    MAX_OUTPUT_PIXELS,
    Region,
    Scale,
    Size,
    check_output,
    check_region,
    check_size,
    is_whole,
    output_size,
    published_size,
)
from hiif_deploy.images.source import as_frame
from hiif_deploy.pixels import Frame, FrameFormat, mirror, to_unit, working_frame

if TYPE_CHECKING:
    from hiif_deploy.images.source import Source

Array = NDArray[np.float32]
StatisticsMode = Literal["exact", "sampled"]
"""Which queries the statistics passes evaluate."""


@dataclass(frozen=True)
class RenderOptions:
    """How the work is cut, and two modes that change the result: published evaluation and sampled statistics."""

    memory: int = DEFAULT_BUDGET
    """Bytes of working memory, beside input, features and output."""
    query_block: int | None = None
    """Most queries per decoder call; None: what `tuning` stored for this machine and bundle, else the engine's
    own."""
    tile_rows: int | None = None
    """Source rows per decoder tile; None: the engine's own."""
    max_output_pixels: int = MAX_OUTPUT_PIXELS
    """Larger outputs are refused."""
    group_rows: int | None = None
    """None: exact, statistics over the whole picture. A number: the published evaluation, which takes statistics
    from groups of so many output rows (300, or 100), seams included (design/model.md E7)."""
    clip_cell: bool = False
    """Give the decoder no smaller cell than it saw in training, where its published evaluation does (E3)."""

    statistics: StatisticsMode = "exact"
    """`sampled` lets the statistics passes evaluate a part of the queries: faster, and approximate (80 dB and more from
    exact; 75 and more in bf16 and int8, which are further off themselves)."""
    samples: int | None = None
    """How many queries are sampled at least; None: `sampling.enough`. Pictures of hardly more are exact anyway."""

    def __post_init__(self) -> None:
        for name in ("memory", "query_block", "tile_rows", "max_output_pixels", "group_rows", "samples"):
            value, least = getattr(self, name), 0 if name == "memory" else 1  # a plan says how much is enough
            if value is not None and not (is_whole(value) and value >= least):
                raise OptionError(f"{name.replace('_', ' ')} is {value!r}: expected a whole number of at least {least}")
        if self.statistics not in get_args(StatisticsMode):
            raise OptionError(f"statistics {self.statistics!r}: expected one of {', '.join(get_args(StatisticsMode))}")
        if self.statistics == "sampled" and self.group_rows is not None:
            raise OptionError("the published evaluation takes statistics of all queries; it cannot be sampled")


@dataclass(frozen=True)
class Features:
    """An encoded picture; may be shared between threads and kept as long as its upscaler is open."""

    encoded: Encoded
    """[C, h, w], where the engine keeps them."""
    frame: Frame
    """[h, w, 1 or 3] uint8, uint16, or float32 in [0, 1]: the picture itself, which the decoder's skip reads."""
    format: FrameFormat
    """Of the picture as it was given; rendered frames have the same."""

    @property
    def size(self) -> Size:
        """(height, width) of the encoded picture."""
        return self.frame.shape[0], self.frame.shape[1]


class Renderer:
    """A bundle on an opened backend. Use it as a context manager, or call `close`; methods are thread-safe."""

    def __init__(
        self, bundle: Bundle, backend: Backend, options: RenderOptions | None = None, *, tuned_block: int | None = None
    ) -> None:
        """Closes the backend when it is closed. `tuned_block` is the number of queries per decoder call that `tune`
        found best for this machine."""
        self.bundle = bundle
        self.options = RenderOptions() if options is None else options
        self._tuned_block = tuned_block
        self._backend = backend
        self._process = os.getpid()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker threads, free the engine's memory. A second call does nothing."""
        # A forked child has none of the threads, and waiting for them would never end.
        if not self._closed and self._process == os.getpid():
            self._backend.close()
        self._closed = True

    @property
    def backend(self) -> Backend:
        """The opened backend, which is closed with this object; EngineError where it cannot be used any more."""
        if self._closed:
            raise EngineError(f"this upscaler of {self.contract.name} is closed: open another one")
        if self._process != os.getpid():
            raise EngineError(
                f"this upscaler of {self.contract.name} was opened by process {self._process}, and its threads do not "
                "live on in a forked child: open another one in the child, or start the child with 'spawn'"
            )
        return self._backend

    @property
    def description(self) -> str:
        """Engine, precision and device in use, and what is approximate."""
        return self._described(self.backend)

    def _described(self, backend: Backend) -> str:
        sampled = ", sampled statistics" if self.options.statistics == "sampled" else ""
        return f"{backend.description}{sampled}"

    @property
    def precision(self) -> ComputePrecision:
        """Precision of the matrix products."""
        return self._backend.precision

    @property
    def fallback_blocks(self) -> int:
        """Blocks of queries that overflowed in fp16 and were recomputed in fp32."""
        return self.backend.fallback_blocks

    @property
    def contract(self) -> Contract:
        """The bundle's contract."""
        return self.bundle.contract

    @property
    def memory_bytes(self) -> int:
        """GPU memory held beside the weights; 0 on the processor."""
        return self.backend.memory_bytes

    def upscale(
        self, frame: Source, *, scale: Scale | None = None, size: Size | None = None, region: Region | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Frame:  # fmt: skip
        """Upscale a picture by `scale` or to `size` (height, width); `region` (top, left, height, width) renders only
        that part of the result.

        The picture is an array [H, W], [H, W, 1] or [H, W, 3] RGB of uint8, uint16 or floats in [0, 1], a file's path
        or a Pillow image (both are made upright as EXIF says); the result is an array of the same dtype and
        channels. `advance(n)` is called with the number of finished steps; `steps` returns their total. Raises
        FrameError, ScaleError, ImageError, EngineError.
        """
        pixels = as_frame(frame)
        source = (pixels.shape[0], pixels.shape[1])
        target = output_size(source, scale=scale, size=size)
        padded, whole = self._evaluated(source, target)
        if padded != source:
            region = check_region(target, (0, 0, *target) if region is None else region)
            pixels = mirror(pixels, padded)
        return self.render(self.encode(pixels, advance=advance), size=whole, region=region, advance=advance)

    def encode(self, frame: Source, *, advance: Callable[[int], None] | None = None) -> Features:
        """Run the encoder over a picture, given as for `upscale`."""
        backend, pixels = self.backend, as_frame(frame)
        working = working_frame(pixels)
        plan = self.plan((working.shape[0], working.shape[1]))
        return Features(backend.encode(working, plan, advance or ignore), working, FrameFormat.of(pixels))

    def statistics(self, features: Features, size: Size, *, advance: Callable[[int], None] | None = None) -> Statistics:
        """Statistics of all queries of an output `size`; pass them to `render` for many regions of that size."""
        backend, size = self.backend, check_size(size)
        job = self._job(features, size, advance)
        # This job decodes nothing, so its last states are of no use.
        job.state_cache = StateCache(0)
        return backend.statistics(job, _whole(size))

    def render(
        self, features: Features, *, scale: Scale | None = None, size: Size | None = None,
        region: Region | None = None, statistics: Statistics | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Frame:  # fmt: skip
        """Decode features at any scale or `size` (height, width); a region equals that region of the whole picture.

        EngineError where the values are NaN, infinite, no colours, or all black though the picture is not.
        """
        backend = self.backend
        target = output_size(features.size, scale=scale, size=size)
        window = _whole(target) if region is None else _part(target, region)
        like = features.format
        frame: Frame = np.empty((*window.shape, features.frame.shape[2]), dtype=like.dtype)
        for rows, columns, values in self._parts(self._job(features, target, advance), window, statistics):
            frame[rows, columns] = values
        if region is None:
            check_not_black(frame, features.frame, f"bundle {self.contract.name} ({backend.description})")
        return frame[..., 0] if like.channels is None else frame

    def render_unclamped(self, features: Features, *, size: Size, statistics: Statistics | None = None) -> Array:
        """[H, W, 3] float32 as the model gives it, 1 being white: overshoot kept, for measuring deviations."""
        _, size = self.backend, check_size(size)
        colours = np.empty((*size, 3), dtype=np.float32)
        job = self._job(replace(features, frame=to_unit(features.frame)), size, clamps=False)
        for rows, columns, values in self._parts(job, _whole(size), statistics):
            colours[rows, columns] = values
        return colours

    def plan(self, source: Size) -> Plan:
        """How a picture of that (height, width) is cut."""
        _, options = self.backend, self.options
        source = output_size(check_size(source), size=source)  # which has at least one pixel
        block = options.query_block or self._tuned_block
        return self._backend.plan(source, PlanLimits(options.memory, block, options.tile_rows))

    def steps(self, source: Size, target: Size) -> int:
        """How many steps `upscale` reports for a whole picture."""
        source, target = self._evaluated(check_size(source), check_size(target))
        plan = self.plan(source)
        return step_count(self.contract, plan, source, target, _groups(_whole(target), self.options.group_rows))

    def _evaluated(self, source: Size, target: Size) -> tuple[Size, Size]:
        """Sizes that are really encoded and decoded: larger than requested where the published evaluation pads."""
        check_output(source, target, self.options.max_output_pixels)
        multiple = self.contract.encoder.size_multiple
        if self.options.group_rows is None or multiple == 1:
            return source, target
        return published_size(source, target, multiple)

    def _parts(self, job: Job, window: Window, statistics: Statistics | None) -> Iterator[tuple[slice, slice, Frame]]:
        """Parts of the window, decoded with its own statistics or those of the row groups that it lies in."""
        backend, whole = self.backend, _whole(job.size)
        if self.options.group_rows is None:
            yield from backend.frames(job, window, statistics or backend.statistics(job, whole))
            return
        for group in _groups(whole, self.options.group_rows):
            part = _overlap(group, window)
            if part is not None:
                start = part.rows[0] - window.rows[0]
                for rows, columns, values in backend.frames(job, part, backend.statistics(job, group)):
                    yield slice(rows.start + start, rows.stop + start), columns, values

    def _job(
        self, features: Features, size: Size, advance: Callable[[int], None] | None = None, *, clamps: bool = True
    ) -> Job:
        check_output(features.size, size, self.options.max_output_pixels)
        cell = relative_cell(features.size, size)
        if self.options.clip_cell and self.contract.decoder.clips_cell:
            cell = cell * np.float32(max(size[0] / features.size[0] / self.contract.training_scales[1], 1))
        samples = self.options.samples or enough(size, self._backend.precision)
        sampling = Sampling.of(size, samples) if self.options.statistics == "sampled" else None
        return Job(
            self.contract, features.encoded, features.frame, size, self.plan(features.size), cell, sampling,
            advance=advance or ignore, clamps=clamps,
        )  # fmt: skip


def _whole(size: Size) -> Window:
    return Window((0, size[0]), (0, size[1]))


def _part(size: Size, region: Region) -> Window:
    top, left, height, width = check_region(size, region)
    return Window((top, top + height), (left, left + width))


def _groups(whole: Window, rows: int | None) -> list[Window]:
    size = rows or whole.rows[1]
    return [Window((start, min(start + size, whole.rows[1])), whole.columns) for start in range(0, whole.rows[1], size)]


def _overlap(group: Window, window: Window) -> Window | None:
    start, stop = max(group.rows[0], window.rows[0]), min(group.rows[1], window.rows[1])
    return Window((start, stop), window.columns) if start < stop else None
