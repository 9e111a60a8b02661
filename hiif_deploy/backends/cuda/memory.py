"""GPU memory with a shape, used again and again: nothing grows with the number of frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.errors import EngineError

Shape = tuple[int, ...]
ALIGNMENT = 256
"""Bytes to which sizes are rounded up, as TensorRT wants addresses, and so that blocks of nearly one size serve each
other."""
IDLE_BYTES = 256 << 20
"""What may lie idle in a pool in any case."""


@dataclass(frozen=True)
class DeviceTensor:
    """A contiguous array on the GPU. Its memory returns to the pool with the last tensor that refers to it."""

    address: int
    """Of the first element."""
    shape: Shape
    """Sizes, the last axis fastest."""
    dtype: np.dtype[Any]
    """Element type."""
    memory: object = field(default=None, repr=False, compare=False)
    """Keeps the memory from being used for anything else."""

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, offset: int, shape: Shape, dtype: Any) -> DeviceTensor:
        """The same memory from byte `offset` on, as another array."""
        return DeviceTensor(self.address + offset, shape, np.dtype(dtype), self.memory)

    def rows(self, start: int, stop: int) -> DeviceTensor:
        """A part of the first axis; the same memory."""
        step = math.prod(self.shape[1:]) * self.dtype.itemsize
        return self.view(start * step, (stop - start, *self.shape[1:]), self.dtype)

    def __getitem__(self, index: int) -> DeviceTensor:
        """One entry of the first axis; the same memory."""
        return self.rows(index, index + 1).view(0, self.shape[1:], self.dtype)


class Packing:
    """Arrays behind each other in one piece of memory, so that one download brings them all."""

    def __init__(self, arrays: Mapping[str, tuple[Shape, Any]]) -> None:
        """Name → shape and element type."""
        self._places: dict[str, tuple[int, Shape, np.dtype[Any]]] = {}
        self.nbytes = 0
        """Bytes of that piece."""
        for name, (shape, dtype) in arrays.items():
            self._places[name] = self.nbytes, shape, np.dtype(dtype)
            self.nbytes += _aligned(math.prod(shape) * np.dtype(dtype).itemsize)

    def tensors(self, memory: DeviceTensor) -> dict[str, DeviceTensor]:
        """The arrays on the GPU; `memory` holds `nbytes` bytes."""
        return {name: memory.view(*place) for name, place in self._places.items()}

    def arrays(self, data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays of a piece [nbytes] that was downloaded, as views."""
        return {
            name: data[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (start, shape, dtype) in self._places.items()
        }


class DevicePool:
    """Hands out memory and takes it back once nobody refers to it. That may be while work that uses it is still queued,
    as long as the next user's work goes to the same stream."""

    def __init__(self, device: Device, synchronize: Callable[[], None]) -> None:
        """`synchronize` waits for all queued work; it is called before memory goes back to the system."""
        self._device = device
        self._synchronize = synchronize
        self._idle: dict[int, int] = {}
        self.allocated_bytes = 0
        """Bytes allocated on the device, in use or idle."""

    def take(self, shape: Shape, dtype: Any) -> DeviceTensor:
        """Fresh memory of that shape; its contents are arbitrary. EngineError where memory is short."""
        wanted = np.dtype(dtype)
        block = self._take(_aligned(max(1, math.prod(shape) * wanted.itemsize)))
        return DeviceTensor(block.address, shape, wanted, block)

    def trim(self) -> None:
        """Give what is idle back to the system."""
        if self._idle:
            self._synchronize()
        while self._idle:
            address, size = self._idle.popitem()
            self._device.free(address)
            self.allocated_bytes -= size

    def _take(self, size: int) -> _Block:
        # A list first: memory may come back whenever something is collected.
        fitting = [(found, address) for address, found in list(self._idle.items()) if size <= found <= 2 * size]
        if fitting:
            address = min(fitting)[1]
            return _Block(address, self._idle.pop(address), self._idle)
        idle = sum(list(self._idle.values()))
        if idle > max(IDLE_BYTES, self.allocated_bytes - idle):
            # Blocks of other sizes, from earlier pictures: they would only pile up.
            self.trim()
        block = _Block(self._allocate(size), size, self._idle)
        self.allocated_bytes += size
        return block

    def _allocate(self, size: int) -> int:
        try:
            return self._device.allocate(size)
        except EngineError:
            self.trim()
        try:
            return self._device.allocate(size)
        except EngineError as error:
            raise EngineError(
                f"{error}; {size:,} bytes of GPU memory were requested beside {self.allocated_bytes:,} in use: allow "
                "less (gpu_memory), or end other programs on this GPU"
            ) from error


class _Block:
    """Memory in use; idle once nothing refers to it any more."""

    def __init__(self, address: int, size: int, idle: dict[int, int]) -> None:
        self.address, self._size, self._idle = address, size, idle

    def __del__(self) -> None:
        self._idle[self.address] = self._size


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
