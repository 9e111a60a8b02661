"""Slots between host and GPU: what is copied arrives whole, however the streams are ordered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fake_device import SCHEDULES, FakeDevice
from hiif_deploy.backends.cuda.streams import IDLE_SLOTS, Gpu


@pytest.fixture(params=SCHEDULES)
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    device = FakeDevice(schedule=request.param)
    gpu = Gpu(device)
    yield gpu
    gpu.close()
    device.close()
    assert +device.live == {}


def test_pictures_that_go_down_and_up_again_stay_what_they_were(gpu: Gpu) -> None:
    waiting = []

    def collect() -> None:
        expected, tensor, slot = waiting.pop(0)
        gpu.slots.wait(slot)
        answer = slot.pinned[: tensor.nbytes].view(np.int32)
        np.testing.assert_array_equal(answer, np.full(30, expected, np.int32))
        gpu.slots.give(slot)
        gpu.pool.give(tensor)

    for n in range(7):
        array = np.full((5, 6), n, dtype=np.uint16)
        tensor = gpu.upload(array, np.dtype(np.int32))
        array[...] = 9  # the caller's array is free at once
        waiting.append((n, tensor, gpu.download(tensor)))
        if len(waiting) == 2:
            collect()
    while waiting:
        collect()


def test_slots_take_turns_and_their_number_is_bounded(gpu: Gpu) -> None:
    for _ in range(20):
        gpu.slots.give(gpu.slots.take(64))
    assert gpu.device.live["pinned"] == IDLE_SLOTS


def test_a_slot_too_small_gives_way_to_a_larger_one(gpu: Gpu) -> None:
    for size in (64, 64, 128, 128, 256):
        slot = gpu.slots.take(size)
        assert slot.pinned.nbytes >= size
        gpu.slots.give(slot)
    assert gpu.device.live["pinned"] == IDLE_SLOTS
