"""What all work on one GPU shares: its streams, its memory, and the pinned blocks between it and the host."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.backends.cuda.memory import DevicePool, DeviceTensor

IDLE_SLOTS = 2
"""Slots kept for the next copies: one is on its way while the other is filled or read."""


@dataclass(eq=False)
class Slot:
    """A pinned block on the host."""

    pinned: NDArray[np.uint8]
    """Its bytes."""
    done: int
    """Event: no queued copy uses the block any more."""


class Gpu:
    """A device with one stream that computes and one that copies. All of it ends with the device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.compute = device.stream()
        """Uploads, runs engines, and everything that their order protects."""
        self.copy = device.stream()
        """Downloads values beside it."""
        self.pool = DevicePool(device, self.synchronize)
        self.lock = threading.RLock()
        """Held while work is queued (`turn`)."""
        self.slots: deque[Slot] = deque()
        """Pinned memory for the next copies."""
        self._scratch: DeviceTensor | None = None

    def synchronize(self) -> None:
        """Wait for all queued work."""
        self.device.synchronize(self.copy)
        self.device.synchronize(self.compute)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Queue work inside: no other thread does meanwhile, and the device is current for TensorRT's own calls."""
        with self.lock, self.device.current():
            yield

    def scratch(self, size: int) -> DeviceTensor:
        """Memory of at least `size` bytes that all engines share: they run one after the other on one stream."""
        if self._scratch is None or self._scratch.nbytes < size:
            self._scratch = None  # before the larger one is taken: both might not fit
            self._scratch = self.pool.take((size,), np.uint8)
        return self._scratch

    def upload(self, array: NDArray[Any], dtype: np.dtype[Any]) -> DeviceTensor:
        """Queue a copy of the array as `dtype` into the pool's memory; the caller's array is free at once."""
        tensor = self.pool.take(array.shape, dtype)
        slot = self._slot(tensor.nbytes)
        slot.pinned[: tensor.nbytes].view(dtype).reshape(array.shape)[...] = array
        self.device.upload(tensor.address, slot.pinned[: tensor.nbytes], self.compute)
        self.device.record(slot.done, self.compute)
        self.slots.append(slot)
        return tensor

    def download(self, tensor: DeviceTensor) -> Download:
        """Queue a copy of what `compute` has made by then to the host, beside what is queued on it next."""
        slot = self._slot(tensor.nbytes)
        self.device.record(slot.done, self.compute)
        self.device.wait(self.copy, slot.done)
        self.device.download(slot.pinned[: tensor.nbytes], tensor.address, self.copy)
        self.device.record(slot.done, self.copy)
        return Download(self, tensor, slot)

    def _slot(self, size: int) -> Slot:
        """A slot with room for `size` bytes, once queued work has let go of it."""
        idle = list(self.slots)
        if len(idle) < IDLE_SLOTS:
            return Slot(self.device.pinned(size), self.device.event())
        # Frames up are larger than blocks down: only where no slot is large enough, the oldest one grows.
        slot = next((slot for slot in idle if slot.pinned.nbytes >= size), idle[0])
        self.slots.remove(slot)
        self.device.synchronize_event(slot.done)
        if slot.pinned.nbytes < size:
            self.device.free(slot.pinned.ctypes.data)
            slot.pinned = self.device.pinned(size)
        return slot


class Download:
    """A tensor on its way to the host."""

    def __init__(self, gpu: Gpu, tensor: DeviceTensor, slot: Slot) -> None:
        # The tensor's memory must stay as it is until the copy is done.
        self._gpu, self._tensor, self._slot = gpu, tensor, slot

    def wait(self) -> NDArray[Any]:
        """The array, once it is there."""
        self._gpu.device.synchronize_event(self._slot.done)
        found: NDArray[Any] = self._slot.pinned[: self._tensor.nbytes].view(self._tensor.dtype).copy()
        return found.reshape(self._tensor.shape)

    def __del__(self) -> None:
        self._gpu.slots.append(self._slot)
