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
    assert +device.live == {}
    device.close()


def test_pictures_that_go_down_and_up_again_stay_what_they_were(gpu: Gpu) -> None:
    waiting = []
    for n in range(7):
        array = np.full((5, 6), n, dtype=np.uint16)
        tensor = gpu.upload(array, np.dtype(np.int32))
        array[...] = 9  # the caller's array is free at once
        down = gpu.slots.take(tensor.nbytes)
        waiting.append((n, down, gpu.download(tensor, down)))
        gpu.pool.give(tensor)
        if len(waiting) == 2:
            expected, slot, answer = waiting.pop(0)
            gpu.slots.wait(slot)
            np.testing.assert_array_equal(answer, np.full((5, 6), expected, np.int32))
            gpu.slots.give(slot)
    for expected, slot, answer in waiting:
        gpu.slots.wait(slot)
        np.testing.assert_array_equal(answer, np.full((5, 6), expected, np.int32))
        gpu.slots.give(slot)


def test_slots_take_turns_and_their_number_is_bounded(gpu: Gpu) -> None:
    for _ in range(20):
        gpu.slots.give(gpu.slots.take(64))
    assert gpu.slots.allocated_bytes == IDLE_SLOTS * 64


def test_a_slot_too_small_gives_way_to_a_larger_one(gpu: Gpu) -> None:
    for size in (64, 64, 128, 128, 256):
        slot = gpu.slots.take(size)
        assert slot.pinned.nbytes >= size
        gpu.slots.give(slot)
    assert gpu.slots.allocated_bytes <= 128 + 256
