"""Decoder answers → colours → a frame's values, on the device: the twin of `decode.finish` and `pixels.from_unit`.

Every step is an operation of its own in the host's order, so that both round alike; tests compare them bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.geometry.grid import Axis
from hiif_deploy.pixels import LUMA_BLUE, LUMA_RED, Frame, FrameFormat, from_unit

Array = NDArray[np.float32]


class Finish:
    """De-normalisation and skip of one tile's queries."""

    def __init__(self, contract: Contract, image: Array, rows: Axis, columns: Axis, device: torch.device) -> None:
        """Unit picture [h, w, 3]; only what the tile's skip reads of it is brought to the device."""
        self._std = torch.tensor(contract.normalisation.std, dtype=torch.float32, device=device)
        self._mean = torch.tensor(contract.normalisation.mean, dtype=torch.float32, device=device)
        self._has_skip = contract.decoder.skip == "bilinear"
        self._taps, self._weights, parts = [], [], []
        for axis in (rows, columns) if self._has_skip else ():
            first, last = int(axis.skip_taps.min()), int(axis.skip_taps.max()) + 1
            parts.append(slice(first, last))
            self._taps.append(torch.tensor(axis.skip_taps.astype(np.int64) - first).to(device))
            self._weights.append(torch.tensor(axis.skip_weight).to(device))
        self._image = torch.tensor(image[tuple(parts)]).to(device) if parts else None

    def __call__(self, answer: Tensor, row: slice, column: slice) -> Tensor:
        """The decoder's [R · W, 3] to a block of the tile → unclamped colours [R, W, 3] float32, 1 being white."""
        shape = row.stop - row.start, column.stop - column.start, 3
        scaled = answer.float().reshape(shape) * self._std
        return scaled + (self._bilinear(row, column) if self._has_skip else self._mean)

    def _bilinear(self, row: slice, column: slice) -> Tensor:
        assert self._image is not None
        (upper, lower), (left, right) = self._taps[0][:, row], self._taps[1][:, column]
        above, below = self._image.index_select(0, upper), self._image.index_select(0, lower)
        lines = above + (below - above) * self._weights[0][row][:, None, None]
        near, far = lines.index_select(1, left), lines.index_select(1, right)
        return near + (far - near) * self._weights[1][column][None, :, None]


@dataclass(frozen=True)
class Last:
    """What is done to finished colours at the end."""

    like: FrameFormat | None
    """Of the frame whose values are wanted; None: colours, as they are."""

    def on_device(self, colours: Tensor) -> Tensor:
        """[R, W, 3] → what goes to the host, as small as it gets there."""
        if self.like is None:
            return colours
        values = colours if self.like.channels == 3 else _luma(colours)
        if self.like.dtype.kind != "u":
            return values.clamp(0, 1)
        top = float(np.iinfo(self.like.dtype).max)
        rounded = (values * top).round().clamp(0, top)
        # PyTorch knows uint16 in few places: its bits travel as int16.
        return rounded.to(torch.uint8) if self.like.dtype.itemsize == 1 else rounded.to(torch.int32).to(torch.int16)

    def arrived(self, values: NDArray[Any]) -> Frame:
        """What `on_device` gave, as a part of the frame."""
        if self.like is None:
            return values
        is_integer = self.like.dtype.kind == "u"
        frame = values.view(self.like.dtype) if is_integer else values.astype(self.like.dtype, copy=False)
        return frame[..., None] if self.like.channels == 1 else frame

    def on_host(self, colours: Array) -> Frame:
        """The same for colours [R, W, 3] that the host has."""
        return colours if self.like is None else from_unit(colours, self.like)


class Download:
    """Tensors on their way to the host; what is queued meanwhile does not wait for them, nor they for it."""

    def __init__(self, *tensors: Tensor) -> None:
        # Where the device is a GPU the copies lie in pinned memory and arrive later.
        self._host = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._done: torch.cuda.Event | None = None
        if tensors[0].device.type == "cuda":
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[NDArray[Any]]:
        """The arrays, once they are there."""
        if self._done is not None:
            self._done.synchronize()
        return [tensor.numpy() for tensor in self._host]


def _luma(colours: Tensor) -> Tensor:
    red, green, blue = colours.unbind(-1)
    return (red - green) * float(LUMA_RED) + (blue - green) * float(LUMA_BLUE) + green
