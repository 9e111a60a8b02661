"""A picture's features on the GPU, with the zeros around them that the maps graph wants, and the picture itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.memory import DeviceTensor
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.pixels import Frame


class TrtFeatures:
    """[C, h, w] inside a zero margin of `halo` pixels."""

    def __init__(self, gpu: Gpu, shape: tuple[int, int, int], dtype: Any, halo: int) -> None:
        """All zero, once the stream has come so far."""
        channels, height, width = shape
        self.shape: tuple[int, ...] = shape
        self.halo = halo
        self._gpu = gpu
        self.padded = gpu.pool.take((channels, height + 2 * halo, width + 2 * halo), dtype)
        """With the margin."""
        gpu.device.clear(self.padded.address, self.padded.nbytes, gpu.compute)
        self._frame: tuple[Frame, DeviceTensor] | None = None

    def keep_frame(self, frame: Frame, tensor: DeviceTensor) -> None:
        """Keep `tensor`, a frame's pixels on the GPU, as long as the features."""
        self._frame = frame, tensor

    def kept_frame(self, frame: Frame) -> DeviceTensor | None:
        """Pixels of that very frame on the GPU, perhaps continued below and to the right; None where it is not kept."""
        return self._frame[1] if self._frame is not None and self._frame[0] is frame else None

    def put(self, source: DeviceTensor, inner: tuple[slice, slice], rows: slice, columns: slice) -> None:
        """Queue: take the `inner` rows and columns of `source` [1, C, H, W] as the features' rows and columns."""
        size = source.dtype.itemsize
        pitch, own_pitch = source.shape[3] * size, self.padded.shape[2] * size
        for channel in range(self.shape[0]):
            start = source[0][channel].address + inner[0].start * pitch + inner[1].start * size
            target = self.padded[channel].address + (rows.start + self.halo) * own_pitch
            self._gpu.device.copy_rows(
                target + (columns.start + self.halo) * size, own_pitch, start, pitch,
                (columns.stop - columns.start) * size, rows.stop - rows.start, self._gpu.compute,
            )  # fmt: skip

    def crop(self, rows: slice, columns: slice) -> DeviceTensor:
        """Queue: a copy of these rows and columns and the halo around them, [1, C, r + 2·halo, c + 2·halo]."""
        height, width = (part.stop - part.start + 2 * self.halo for part in (rows, columns))
        crop = self._gpu.pool.take((1, self.shape[0], height, width), self.padded.dtype)
        copy_rows, size = self._gpu.device.copy_rows, crop.dtype.itemsize
        pitch, channel_pitch = self.padded.shape[2] * size, self.padded[0].nbytes
        start, line = self.padded.address + rows.start * pitch + columns.start * size, width * size
        if line == pitch:
            # Whole rows lie behind each other: one copy serves all channels.
            size = height * line
            copy_rows(crop.address, size, start, channel_pitch, size, self.shape[0], self._gpu.compute)
            return crop
        for n in range(self.shape[0]):
            copy_rows(crop[0][n].address, line, start + n * channel_pitch, pitch, line, height, self._gpu.compute)
        return crop

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy on the host, without the margin."""
        del copy
        with self._gpu.turn():
            download = self._gpu.download(self.padded)
        inner = slice(self.halo, -self.halo or None)
        return np.ascontiguousarray(download.wait()[:, inner, inner], dtype=dtype or self.padded.dtype)
