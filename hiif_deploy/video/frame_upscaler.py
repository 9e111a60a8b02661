"""Upscales the frames of one clip and validates each result."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.job import Statistics
from hiif_deploy.decoding.output_check import NotAPictureError
from hiif_deploy.errors import VideoError
from hiif_deploy.pictures.deviation import fp32_reference
from hiif_deploy.pixels import to_unit
from hiif_deploy.upscaler import Features, Upscaler
from hiif_deploy.video.convert import RgbFrame
from hiif_deploy.video.frames import Source
from hiif_deploy.video.task import SegmentTask

SCENE_CUT = 0.08
"""Mean change of a thumbnail's values, white being 1, above which statistics are not reused."""
THUMBNAIL = 32
"""Approximate number of rows and columns that are compared."""
CHECK_EVERY = 24
"""Every n-th frame with reused statistics is also computed with its own, to measure the deviation."""


class FrameUpscaler:
    """Upscales the frames of one segment after the other. For one thread; close it after use."""

    def __init__(self, upscaler: Upscaler, step: Callable[[int], None] | None = None) -> None:
        """`step` is called within each frame; an exception that it raises ends the work."""
        self._upscaler = upscaler
        self._step = step
        self._exact: Upscaler | None = None

    def close(self) -> None:
        """Close the fp32 engine if it was opened."""
        if self._exact is not None:
            self._exact.close()

    def begin(self, task: SegmentTask) -> None:
        """Start a segment and reset all state: each segment depends on itself alone."""
        self.task = task
        self.fallback_blocks = self.resized = 0
        self.deviation_db: float | None = None
        self.damaged: list[int] = []
        self._last: tuple[RgbFrame, RgbFrame] | None = None
        self._kept: Statistics | None = None
        self._thumbnail: NDArray[np.float32] | None = None
        self._age = 0

    def upscale(self, source: Source) -> RgbFrame | None:
        """Return the frame [H, W, 3] at the output's size in the source's dtype; None where it is left out.

        NotAPictureError where even the fp32 output is no picture and the task says `stop`; VideoError for a frame that
        is larger than the output.
        """
        if source.is_damaged:
            self.damaged.append(source.number)
        if source.picture is None:
            return None
        self._check_size(source.number, source.picture)
        if self._last is not None and self._last[0] is source.picture:
            return self._last[1]
        try:
            made = self._intact(source)
        except NotAPictureError:
            if self.task.on_error == "stop" or (self.task.on_error == "repeat" and self._last is None):
                raise
            if not source.is_damaged:
                self.damaged.append(source.number)
            return None if self.task.on_error == "skip" or self._last is None else self._last[1]
        self._last = source.picture, made
        return made

    def _check_size(self, number: int, picture: RgbFrame) -> None:
        """Count frames of another size, which broadcasts contain; the output has one size only."""
        (rows, columns), (height, width) = picture.shape[:2], self.task.encoding.size
        if (rows, columns) == self.task.source_size:
            return
        if rows > height or columns > width:
            raise VideoError(
                f"{self.task.clip}: frame {number} is {columns}x{rows}, unlike the first one, and larger than the "
                f"output of {width}x{height}; give a --size of at least {columns}x{rows}"
            )
        self.resized += 1

    def _intact(self, source: Source) -> RgbFrame:
        assert source.picture is not None
        before = self._upscaler.fallback_blocks
        try:
            made = self._make(source.picture)
            self.fallback_blocks += self._upscaler.fallback_blocks - before
            return made
        except NotAPictureError as error:
            if self._upscaler.precision == "fp32":
                where = f"{self.task.clip}: frame {source.number}: the engine"
                raise NotAPictureError(f"{error.what} in fp32 (--on-error repeat continues)", where) from error
        self.fallback_blocks += 1
        if self._exact is None:
            self._exact = fp32_reference(self._upscaler, self._upscaler.options)
        return self._render(self._exact, self._exact.encode(source.picture, advance=self._step), None)

    def _make(self, picture: RgbFrame) -> RgbFrame:
        features = self._upscaler.encode(picture, advance=self._step)
        statistics = self._reused(features, picture)
        made = self._render(self._upscaler, features, statistics)
        if statistics is not None and self._age % CHECK_EVERY == 1:
            own = self._render(self._upscaler, features, None)
            found = psnr(made, own)
            self.deviation_db = found if self.deviation_db is None else min(found, self.deviation_db)
        return made

    def _render(self, upscaler: Upscaler, features: Features, statistics: Statistics | None) -> RgbFrame:
        size = self.task.encoding.size
        made: RgbFrame = upscaler.render(features, size=size, statistics=statistics, advance=self._step)
        return made

    def _reused(self, features: Features, picture: RgbFrame) -> Statistics | None:
        """Return the statistics of the first frame since the last cut; None for the frame's own."""
        if self.task.statistics == "exact" or self._upscaler.contract.decoder.statistics_passes == 0:
            return None
        thumbnail, before = _thumbnail(picture), self._thumbnail
        self._thumbnail = thumbnail
        self._age += 1
        if self._kept is None or before is None or _is_cut(before, thumbnail):
            size = self.task.encoding.size
            self._kept, self._age = self._upscaler.statistics(features, size, advance=self._step), 0
        return self._kept


def psnr(one: RgbFrame, other: RgbFrame) -> float:
    """Return the PSNR in dB of two RGB frames [H, W, 3] of one dtype, at most 200."""
    top = float(np.iinfo(one.dtype).max)
    error = float(np.square((one.astype(np.float32) - other) / top).mean())
    return 200.0 if error <= 1e-20 else float(-10 * np.log10(error))


def _is_cut(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    return before.shape != after.shape or float(np.abs(after - before).mean()) > SCENE_CUT


def _thumbnail(picture: RgbFrame) -> NDArray[np.float32]:
    rows, columns = (max(1, side // THUMBNAIL) for side in picture.shape[:2])
    return to_unit(picture[::rows, ::columns])
