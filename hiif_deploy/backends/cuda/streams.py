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
from hiif_deploy.backends.cuda.memory import DevicePool, DeviceTensor, Scratch

IDLE_SLOTS = 2
"""Slots kept for the next copies: one is on its way while the other is filled or read."""


class Gpu:
    """A device with one stream that computes and one that copies."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.compute = device.stream()
        """Uploads, runs engines, and everything that their order protects."""
        self.copy = device.stream()
        """Downloads values beside it."""
        self.pool = DevicePool(device, self.synchronize)
        self.scratch = Scratch(device, self.synchronize)
        self.lock = threading.RLock()
        """Held while work is queued (`turn`)."""
        self.slots = SlotPool(device)
        """Pinned memory for copies."""

    def synchronize(self) -> None:
        """Wait for all queued work."""
        self.device.synchronize(self.copy)
        self.device.synchronize(self.compute)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Queue work inside: no other thread does meanwhile, and the device is current for TensorRT's own calls."""
        with self.lock, self.device.current():
            yield

    def upload(self, array: NDArray[Any], dtype: np.dtype[Any]) -> DeviceTensor:
        """Queue a copy of the array as `dtype` into the pool's memory; the caller's array is free at once."""
        tensor = self.pool.take(array.shape, dtype)
        slot = self.slots.take(tensor.nbytes)
        slot.pinned[: tensor.nbytes].view(dtype).reshape(array.shape)[...] = array
        self.device.upload(tensor.address, slot.pinned[: tensor.nbytes], self.compute)
        self.device.record(slot.done, self.compute)
        self.slots.give(slot)
        return tensor

    def download(self, tensor: DeviceTensor) -> Slot:
        """Queue a copy of what `compute` has made by then into pinned memory, beside what is queued on it next.

        The tensor's memory stays as it is until the slot is waited for.
        """
        slot = self.slots.take(tensor.nbytes)
        self.device.record(slot.done, self.compute)
        self.device.wait(self.copy, slot.done)
        self.device.download(slot.pinned[: tensor.nbytes], tensor.address, self.copy)
        self.device.record(slot.done, self.copy)
        return slot

    def close(self) -> None:
        """Wait for all work and free the memory. The device itself stays open."""
        self.synchronize()
        self.scratch.free()
        self.pool.close()


@dataclass
class Slot:
    """A pinned block on the host."""

    pinned: NDArray[np.uint8]
    """Its bytes."""
    done: int
    """Event: no queued copy uses the block any more."""


class SlotPool:
    """Slots that take turns, the one given back first goes first."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._idle: deque[Slot] = deque()

    def take(self, size: int) -> Slot:
        """A slot with room for `size` bytes, once queued work has let go of it."""
        if len(self._idle) >= IDLE_SLOTS:
            # Frames up are larger than blocks down: only where no slot is large enough, the oldest one goes.
            slot = next((idle for idle in self._idle if idle.pinned.nbytes >= size), self._idle[0])
            self._idle = deque(idle for idle in self._idle if idle is not slot)
            self.wait(slot)
            if slot.pinned.nbytes < size:
                self._device.free(slot.pinned.ctypes.data)
                slot.pinned = self._device.pinned(size)
            return slot
        return Slot(self._device.pinned(size), self._device.event())

    def give(self, slot: Slot) -> None:
        """Back; queued work may still use it until its event `done`."""
        self._idle.append(slot)

    def wait(self, slot: Slot) -> None:
        """Return once `done` has come."""
        self._device.synchronize_event(slot.done)
