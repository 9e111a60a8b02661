"""Pictures in, pictures out: encode once, render any number of sizes and regions from the same features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from hiif_deploy import tuning
from hiif_deploy.backend import Backend, Encoded, FrameMaker
from hiif_deploy.bundle import DEFAULT_MODEL, Bundle, open_bundle
from hiif_deploy.carry import Carry
from hiif_deploy.contract import Contract
from hiif_deploy.decode import Job, Statistics, Window
from hiif_deploy.engine_choice import open_backend
from hiif_deploy.errors import OptionError
from hiif_deploy.grid import relative_cell
from hiif_deploy.ort_backend import DeviceBackend
from hiif_deploy.pixels import Frame, FrameFormat, check_frame, from_unit, mirror, to_unit
from hiif_deploy.plan import DEFAULT_BUDGET, QUERY_BLOCK, TILE_ROWS, Plan, gpu_query_block, make_plan
from hiif_deploy.sampling import Sampling, enough
from hiif_deploy.session import Arithmetic, Engine, EngineOptions
from hiif_deploy.sizes import (
    MAX_OUTPUT_PIXELS,
    Region,
    Scale,
    Size,
    check_output,
    check_region,
    output_size,
    published_size,
)

Array = NDArray[np.float32]
Answer = Callable[[Job, Window, Statistics, Callable[[int], None]], Iterator[tuple[slice, slice, Frame]]]
"""Yields (rows, columns) within a window and what the backend makes of its queries."""

StatisticsMode = Literal["exact", "sampled"]
"""Which queries the statistics passes ask."""


@dataclass(frozen=True)
class RenderOptions:
    """How the work is cut, and two modes that change the result: published evaluation and sampled statistics."""

    memory: int = DEFAULT_BUDGET
    """Bytes of working memory, beside input, features and output."""
    query_block: int | None = None
    """Most queries per decoder call; None: what `tuning` stored for this machine and bundle, else 2,048."""
    tile_rows: int = TILE_ROWS
    """Source rows per decoder tile."""
    max_output_pixels: int = MAX_OUTPUT_PIXELS
    """Larger outputs are refused."""
    group_rows: int | None = None
    """None: exact, statistics over the whole picture. A number: the published evaluation, which takes statistics
    from groups of so many output rows (300, or 100), seams included (design/model.md E7)."""
    clip_cell: bool = False
    """Tell the decoder no smaller cell than it saw in training, where its published evaluation does (E3)."""

    statistics: StatisticsMode = "exact"
    """`sampled` lets the statistics passes ask a part of the queries: faster, and approximate (80 dB and more from
    exact; 75 and more in bf16 and int8, which are further off themselves)."""
    samples: int | None = None
    """How many queries are sampled at least; None: `sampling.enough`. Pictures of hardly more are exact anyway."""

    def __post_init__(self) -> None:
        if self.statistics not in get_args(StatisticsMode):
            raise OptionError(f"statistics {self.statistics!r}: expected one of {', '.join(get_args(StatisticsMode))}")
        if self.query_block is not None and self.query_block < 1:
            raise OptionError(f"query block {self.query_block}: expected at least 1")
        if self.samples is not None and self.samples < 1:
            raise OptionError(f"samples {self.samples}: expected at least 1")
        if self.statistics == "sampled" and self.group_rows is not None:
            raise OptionError("the published evaluation takes statistics of all queries; it cannot be sampled")
        if self.group_rows is not None and self.group_rows < 1:
            raise OptionError(f"group of {self.group_rows} rows: expected at least 1")


@dataclass(frozen=True)
class Features:
    """An encoded picture; may be shared between threads and kept as long as its upscaler is open."""

    encoded: Encoded
    """[C, h, w], what the encoder answered, where the engine keeps it."""
    image: Array
    """[h, w, 3] float32 in [0, 1], the picture itself (the decoder's skip reads it)."""
    format: FrameFormat
    """Of the frame that was encoded; rendered frames have the same."""

    @property
    def size(self) -> Size:
        """(height, width) of the encoded picture."""
        return self.image.shape[0], self.image.shape[1]


def _ignore(_: int) -> None:
    """Default of `advance` arguments."""


def _ignore_colours(_: Array) -> None:
    """Default of `inspect`."""


class Upscaler:
    """A bundle, loaded. Use it as a context manager, or call `close`; methods may be called from several threads.

    >>> with Upscaler() as upscaler:
    ...     large = upscaler.upscale(frame, scale=3.3)
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = DEFAULT_MODEL,
        *,
        engine: EngineOptions | Engine | None = None,
        options: RenderOptions | None = None,
        backend: Backend | None = None,
    ) -> None:
        """`bundle` is a folder, a shipped model's name or an opened bundle; `engine` a name (`onnxruntime`, `tensorrt`,
        `auto`) or all that can be chosen. `backend` is one that is open already. Raises BundleError, EngineError."""
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.engine = EngineOptions(engine=engine) if isinstance(engine, str) else engine or EngineOptions()
        self.options = options or RenderOptions()
        cut = tuning.find(self.bundle, self.engine)
        self._tuned_block = cut.query_block if cut else None
        if cut and self.engine.call_threads is None:
            self.engine = replace(self.engine, call_threads=cut.call_threads)
        self._backend = backend or open_backend(self.bundle, self.engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker threads, free the engine's memory."""
        self._backend.close()

    @property
    def description(self) -> str:
        """Engine, precision and device in use, and what is approximate."""
        sampled = ", sampled statistics" if self.options.statistics == "sampled" else ""
        return f"{self._backend.description}{sampled}"

    @property
    def precision(self) -> Arithmetic:
        """What is computed in."""
        return self._backend.precision

    @property
    def rescued(self) -> int:
        """Blocks of queries that half precision could not answer and that were decoded again in fp32."""
        return self._backend.rescued

    @property
    def contract(self) -> Contract:
        """What the bundle promises."""
        return self.bundle.contract

    @property
    def memory_bytes(self) -> int:
        """GPU memory held beside the weights; 0 on the processor."""
        return self._backend.memory_bytes

    def upscale(
        self, frame: Frame, *, scale: Scale | None = None, size: Size | None = None, region: Region | None = None,
        advance: Callable[[int], None] = _ignore,
    ) -> Frame:  # fmt: skip
        """Enlarge a frame by `scale` or to `size` (height, width); `region` renders only that part of the result.

        The frame is [H, W], [H, W, 1] or [H, W, 3] RGB of uint8, uint16 or floats in [0, 1]; the answer has the same
        dtype and channels. `advance(n)` is told of finished steps (`steps` says how many there are).
        Raises FrameError, ScaleError.
        """
        check_frame(frame)
        source = (frame.shape[0], frame.shape[1])
        target = output_size(source, scale=scale, size=size)
        padded, whole = self._evaluated(source, target)
        if padded != source:
            region = region or (0, 0, *target)
            check_region(target, region)
            frame = mirror(frame, padded)
        return self.render(self.encode(frame, advance=advance), size=whole, region=region, advance=advance)

    def encode(self, frame: Frame, *, advance: Callable[[int], None] = _ignore) -> Features:
        """Run the encoder over a frame."""
        check_frame(frame)
        image = to_unit(frame)
        plan = self.plan((image.shape[0], image.shape[1]))
        encoded = self._backend.encode(image, plan, advance)
        return Features(encoded, image, FrameFormat.of(frame))

    def statistics(self, features: Features, size: Size, *, advance: Callable[[int], None] = _ignore) -> Statistics:
        """Statistics of all queries of an output `size`; hand them to `render` for many regions of that size."""
        job = self._job(features, size)
        # Nothing will be decoded by this job, so its last states are of no use.
        job.carry = Carry(0)
        return self._backend.statistics(job, _whole(size), advance)

    def render(
        self, features: Features, *, scale: Scale | None = None, size: Size | None = None,
        region: Region | None = None, statistics: Statistics | None = None,
        advance: Callable[[int], None] = _ignore, inspect: Callable[[Array], object] = _ignore_colours,
    ) -> Frame:  # fmt: skip
        """Decode features at any scale or size; a region equals that region of the whole picture.

        `inspect` is shown every part of the answer, [r, c, 3] float32 as the model gave it, before it is rounded.
        """
        target = output_size(features.size, scale=scale, size=size)
        window = _whole(target) if region is None else _part(target, region)
        like = features.format
        channels = () if like.channels is None else (like.channels,)
        frame: Frame = np.empty((*window.shape, *channels), dtype=like.dtype)
        if inspect is _ignore_colours and isinstance(self._backend, FrameMaker):
            made = partial(self._backend.frames, like=like)
            for rows, columns, part in self._parts(features, target, window, statistics, advance, made):
                frame[rows, columns] = part
            return frame
        for rows, columns, colours in self._parts(features, target, window, statistics, advance, self._backend.colours):
            inspect(colours)
            frame[rows, columns] = from_unit(colours, like)
        return frame

    def render_unclamped(self, features: Features, *, size: Size, statistics: Statistics | None = None) -> Array:
        """[H, W, 3] float32 as the model answers, 1 being white: overshoot kept, for measuring deviations."""
        colours = np.empty((*size, 3), dtype=np.float32)
        for rows, columns, part in self._parts(
            features, size, _whole(size), statistics, _ignore, self._backend.colours
        ):
            colours[rows, columns] = part
        return colours

    def plan(self, source: Size) -> Plan:
        """How a picture of that (height, width) is cut."""
        options = self.options
        return make_plan(
            self.contract, source, budget=options.memory, threads=self.engine.thread_count,
            query_block=options.query_block or self._tuned_block or self._usual_block, tile_rows=options.tile_rows,
        )  # fmt: skip

    def steps(self, source: Size, target: Size) -> int:
        """How many steps `upscale` reports for a whole picture."""
        source, target = self._evaluated(source, target)
        plan = self.plan(source)
        return self._backend.steps(plan, source, target, _groups(_whole(target), self.options.group_rows))

    def _evaluated(self, source: Size, target: Size) -> tuple[Size, Size]:
        """Sizes that are really encoded and decoded: larger than asked where the published evaluation pads."""
        check_output(source, target, self.options.max_output_pixels)
        multiple = self.contract.encoder.size_multiple
        if self.options.group_rows is None or multiple == 1:
            return source, target
        return published_size(source, target, multiple)

    @property
    def _usual_block(self) -> int:
        if isinstance(self._backend, DeviceBackend):
            return gpu_query_block(self.contract, self.options.memory, self.engine.thread_count)
        return QUERY_BLOCK

    def _parts(
        self, features: Features, size: Size, window: Window, statistics: Statistics | None,
        advance: Callable[[int], None], answer: Answer,
    ) -> Iterator[tuple[slice, slice, Frame]]:  # fmt: skip
        """Parts of the window as `answer`, a way of the backend's, gives them."""
        job = self._job(features, size)
        if self.options.group_rows is None:
            found = statistics or self._backend.statistics(job, _whole(size), advance)
            yield from answer(job, window, found, advance)
            return
        for group in _groups(_whole(size), self.options.group_rows):
            part = _overlap(group, window)
            if part is not None:
                found = self._backend.statistics(job, group, advance)
                start = part.rows[0] - window.rows[0]
                for rows, columns, values in answer(job, part, found, advance):
                    yield slice(rows.start + start, rows.stop + start), columns, values

    def _job(self, features: Features, size: Size) -> Job:
        check_output(features.size, size, self.options.max_output_pixels)
        cell = relative_cell(features.size, size)
        if self.options.clip_cell and self.contract.decoder.clips_cell:
            cell = cell * np.float32(max(size[0] / features.size[0] / self.contract.training_scales[1], 1))
        samples = self.options.samples or enough(size, self._backend.precision)
        sampling = Sampling.of(size, samples) if self.options.statistics == "sampled" else None
        return Job(self.contract, features.encoded, features.image, size, self.plan(features.size), cell, sampling)


def _whole(size: Size) -> Window:
    return Window((0, size[0]), (0, size[1]))


def _part(size: Size, region: Region) -> Window:
    check_region(size, region)
    top, left, height, width = region
    return Window((top, top + height), (left, left + width))


def _groups(whole: Window, rows: int | None) -> list[Window]:
    size = rows or whole.rows[1]
    return [Window((start, min(start + size, whole.rows[1])), whole.columns) for start in range(0, whole.rows[1], size)]


def _overlap(group: Window, window: Window) -> Window | None:
    start, stop = max(group.rows[0], window.rows[0]), min(group.rows[1], window.rows[1])
    return Window((start, stop), window.columns) if start < stop else None
