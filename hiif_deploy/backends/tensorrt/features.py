"""A picture's features on the GPU, with the zeros around them that the maps graph wants, and the picture itself."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.backends.cuda.memory import DevicePool, DeviceTensor
from hiif_deploy.pixels import Frame


class TrtFeatures:
    """[C, h, w] inside a zero margin of `halo` pixels. The memory returns to its pool with the object."""

    def __init__(
        self, device: Device, pool: DevicePool, stream: int, shape: tuple[int, int, int], dtype: Any, halo: int
    ) -> None:
        """All zero, once the stream has come so far."""
        channels, height, width = shape
        self.shape: tuple[int, ...] = shape
        self.halo = halo
        self._device, self._stream = device, stream
        self.padded = pool.take((channels, height + 2 * halo, width + 2 * halo), dtype)
        """With the margin."""
        device.clear(self.padded.address, self.padded.nbytes, stream)
        self._frame: tuple[Frame, DeviceTensor] | None = None
        self._pool = pool
        weakref.finalize(self, pool.give, self.padded)

    def keep_frame(self, frame: Frame, tensor: DeviceTensor) -> None:
        """Keep `tensor`, a frame's pixels on the GPU, as long as the features."""
        self._frame = frame, tensor
        weakref.finalize(self, self._pool.give, tensor)

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
            self._device.copy_rows(
                target + (columns.start + self.halo) * size, own_pitch, start, pitch,
                (columns.stop - columns.start) * size, rows.stop - rows.start, self._stream,
            )  # fmt: skip

    def crop(self, target: DeviceTensor, rows: slice, columns: slice) -> None:
        """Queue: copy these rows and columns and the halo around them to `target` [1, C, r + 2·halo, c + 2·halo]."""
        size = target.dtype.itemsize
        channel_pitch = self.padded.shape[1] * self.padded.shape[2] * size
        pitch = self.padded.shape[2] * size
        start = self.padded.address + rows.start * pitch + columns.start * size
        width, height = target.shape[3] * size, target.shape[2]
        if width == pitch:
            # Whole rows lie behind each other: one copy serves all channels.
            self._device.copy_rows(
                target.address, height * width, start, channel_pitch, height * width, self.shape[0], self._stream
            )
            return
        for channel in range(self.shape[0]):
            self._device.copy_rows(
                target[0][channel].address, width, start + channel * channel_pitch, pitch, width, height, self._stream
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """A copy on the host, without the margin."""
        del copy
        array: NDArray[Any] = np.empty(self.padded.shape, self.padded.dtype)
        self._device.download(array, self.padded.address, self._stream)
        self._device.synchronize(self._stream)
        inner = slice(self.halo, -self.halo or None)
        return np.ascontiguousarray(array[:, inner, inner], dtype=dtype or self.padded.dtype)
