"""GPU memory with a shape, used again and again: nothing grows with the number of frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.errors import EngineError

ALIGNMENT = 256
"""Bytes to which sizes are rounded up, so that blocks of nearly one size serve each other."""
IDLE_BYTES = 256 << 20
"""What may lie idle in a pool in any case."""


@dataclass(frozen=True)
class DeviceTensor:
    """A contiguous array on the GPU. Whoever took it from a pool gives it back."""

    address: int
    """Of the first element."""
    shape: tuple[int, ...]
    """Sizes, the last axis fastest."""
    dtype: np.dtype[Any]
    """Element type."""

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> DeviceTensor:
        """A part of the first axis; the same memory."""
        step = math.prod(self.shape[1:]) * self.dtype.itemsize
        return DeviceTensor(self.address + start * step, (stop - start, *self.shape[1:]), self.dtype)

    def __getitem__(self, index: int) -> DeviceTensor:
        """One entry of the first axis; the same memory."""
        row = self.rows(index, index + 1)
        return DeviceTensor(row.address, self.shape[1:], self.dtype)


class DevicePool:
    """Gives out blocks and takes them back. A block may be given back while work that reads it is still queued, as
    long as the next user's work goes to the same stream."""

    def __init__(self, device: Device, synchronize: Callable[[], None]) -> None:
        """`synchronize` waits for all queued work; it is called before memory goes back to the system."""
        self._device = device
        self._synchronize = synchronize
        self._sizes: dict[int, int] = {}
        self._idle: dict[int, int] = {}

    @property
    def allocated_bytes(self) -> int:
        """Bytes allocated on the device, in use or idle."""
        return sum(self._sizes.values())

    def take(self, shape: tuple[int, ...], dtype: Any) -> DeviceTensor:
        """Fresh memory of that shape; its contents are arbitrary. EngineError where memory is short."""
        wanted = np.dtype(dtype)
        size = max(1, -(-math.prod(shape) * wanted.itemsize // ALIGNMENT)) * ALIGNMENT
        return DeviceTensor(self._take(size), shape, wanted)

    def give(self, *tensors: DeviceTensor) -> None:
        """Back to the pool, for the next `take`. Once the pool is closed, its memory is gone and this does nothing."""
        for tensor in tensors:
            if tensor.address in self._sizes:
                self._idle[tensor.address] = self._sizes[tensor.address]

    @contextmanager
    def lease(self) -> Iterator[Callable[[tuple[int, ...], Any], DeviceTensor]]:
        """A `take` whose tensors are all given back at the end."""
        taken: list[DeviceTensor] = []

        def take(shape: tuple[int, ...], dtype: Any) -> DeviceTensor:
            taken.append(self.take(shape, dtype))
            return taken[-1]

        try:
            yield take
        finally:
            self.give(*taken)

    def upload(self, array: NDArray[Any], stream: int) -> DeviceTensor:
        """Take memory and queue a copy; the array must stay as it is until the stream has passed it."""
        tensor = self.take(array.shape, array.dtype)
        self._device.upload(tensor.address, array, stream)
        return tensor

    def trim(self) -> None:
        """Give what is idle back to the system."""
        if self._idle:
            self._synchronize()
        while self._idle:
            address, _ = self._idle.popitem()
            self._device.free(address)
            del self._sizes[address]

    def close(self) -> None:
        """Free everything, in use or not. All queued work must be done."""
        for address in self._sizes:
            self._device.free(address)
        self._sizes.clear()
        self._idle.clear()

    def _take(self, size: int) -> int:
        # A list first: features may give memory back whenever they are collected.
        fitting = [(found, address) for address, found in list(self._idle.items()) if size <= found <= 2 * size]
        if fitting:
            address = min(fitting)[1]
            del self._idle[address]
            return address
        idle = sum(self._idle.values())
        if idle > max(IDLE_BYTES, self.allocated_bytes - idle):
            # Blocks of other sizes, from earlier pictures: they would only pile up.
            self.trim()
        address = self._allocate(size)
        self._sizes[address] = size
        return address

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


class Scratch:
    """One block that all engines share while they run: they run one after the other on one stream."""

    def __init__(self, device: Device, synchronize: Callable[[], None]) -> None:
        self._device = device
        self._synchronize = synchronize
        self.address = 0
        self.size = 0

    def reserve(self, size: int) -> None:
        """Make it at least that large; its address may change."""
        if size <= self.size:
            return
        self.free()
        self.address = self._device.allocate(size)
        self.size = size

    def free(self) -> None:
        """Give it back to the system."""
        if self.size:
            self._synchronize()
            self._device.free(self.address)
        self.address = self.size = 0
