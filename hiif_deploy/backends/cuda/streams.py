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

from hiif_deploy.backends.cuda.device import Device, Stream
from hiif_deploy.backends.cuda.memory import DevicePool, DeviceTensor, Scratch

IDLE_SLOTS = 2
"""Slots kept for the next copies: one is on its way while the other is filled or read."""


class Gpu:
    """A device with one stream that computes and one that copies."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.compute: Stream = device.stream()
        """Runs engines and everything that their order protects."""
        self.copy: Stream = device.stream()
        """Uploads pictures and downloads colours beside it."""
        self.pool = DevicePool(device, self.synchronize)
        self.scratch = Scratch(device, self.synchronize)
        self.lock = threading.RLock()
        """Held while work is queued (`turn`)."""
        self.slots = SlotPool(device)
        """For copies between pinned memory and the GPU."""

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
        """The array as `dtype`, copied through pinned memory into the pool's; what is queued on `compute` from now on
        finds it there, and the caller's array is free at once."""
        tensor = self.pool.take(array.shape, dtype)
        slot, size = self.slots.take(tensor.nbytes), tensor.nbytes
        slot.host(array.shape, dtype)[...] = array
        self.device.upload(slot.address, slot.pinned[:size], self.copy)
        self.device.record(slot.moved, self.copy)
        self.device.wait(self.compute, slot.moved)
        # Not straight into the pool's memory, which `compute` may still read for its last user.
        self.device.copy_rows(tensor.address, size, slot.address, size, size, 1, self.compute)
        self.device.record(slot.done, self.compute)
        self.slots.give(slot)
        return tensor

    def download(self, tensor: DeviceTensor, slot: Slot) -> NDArray[Any]:
        """Copy what `compute` has made by then into the slot's pinned memory; valid after `slot.wait()`."""
        size = tensor.nbytes
        self.device.copy_rows(slot.address, size, tensor.address, size, size, 1, self.compute)
        self.device.record(slot.moved, self.compute)
        self.device.wait(self.copy, slot.moved)
        self.device.download(slot.pinned[:size], slot.address, self.copy)
        self.device.record(slot.done, self.copy)
        return slot.host(tensor.shape, tensor.dtype)

    def close(self) -> None:
        """Give everything back. The device itself stays open."""
        self.synchronize()
        self.slots.close()
        self.scratch.free()
        self.pool.close()
        self.device.free_stream(self.copy)
        self.device.free_stream(self.compute)


@dataclass
class Slot:
    """A pinned block on the host and its counterpart on the GPU."""

    pinned: NDArray[np.uint8]
    """On the host."""
    address: int
    """On the GPU, as large."""
    moved: Any
    """Event: what was to be copied first has arrived in the counterpart."""
    done: Any
    """Event: neither is read any more by queued work."""

    def host(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """The pinned block's beginning as an array."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        array: NDArray[Any] = self.pinned[:count].view(dtype).reshape(shape)
        return array


class SlotPool:
    """Slots that take turns, the one given back first goes first."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._idle: deque[Slot] = deque()
        self._all: list[Slot] = []

    @property
    def allocated_bytes(self) -> int:
        """GPU memory of all slots."""
        return sum(slot.pinned.nbytes for slot in self._all)

    def take(self, size: int) -> Slot:
        """A slot with room for `size` bytes, once queued work has let go of it."""
        while len(self._idle) >= IDLE_SLOTS:
            slot = self._idle.popleft()
            self.wait(slot)
            if slot.pinned.nbytes >= size:
                return slot
            self._free(slot)
        slot = Slot(self._device.pinned(size), self._device.allocate(size), self._device.event(), self._device.event())
        self._all.append(slot)
        return slot

    def give(self, slot: Slot) -> None:
        """Back; queued work may still use it until its event `done`."""
        self._idle.append(slot)

    def wait(self, slot: Slot) -> None:
        """Return once `done` has come."""
        self._device.synchronize_event(slot.done)

    def close(self) -> None:
        """Free all. Queued work must be done."""
        for slot in list(self._all):
            self._free(slot)
        self._idle.clear()

    def _free(self, slot: Slot) -> None:
        self._device.free_pinned(slot.pinned)
        self._device.free(slot.address)
        self._device.free_event(slot.moved)
        self._device.free_event(slot.done)
        # By identity: slots hold arrays, which have no plain equality.
        self._all = [other for other in self._all if other is not slot]
