"""Slots between host and GPU: what is copied arrives whole, however the streams are ordered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fake_device import SCHEDULES, FakeDevice
from hiif_deploy.backends.cuda.streams import IDLE_SLOTS, Download, Gpu


@pytest.fixture(params=SCHEDULES)
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    device = FakeDevice(schedule=request.param)
    gpu = Gpu(device)
    yield gpu
    device.close()
    assert +device.live == {}


def test_pictures_that_go_down_and_up_again_stay_what_they_were(gpu: Gpu) -> None:
    waiting: list[tuple[int, Download]] = []

    def collect() -> None:
        expected, download = waiting.pop(0)
        np.testing.assert_array_equal(download.wait(), np.full((5, 6), expected, np.int32))

    for n in range(7):
        array = np.full((5, 6), n, dtype=np.uint16)
        waiting.append((n, gpu.download(gpu.upload(array, np.dtype(np.int32)))))
        array[...] = 9  # the caller's array is free at once
        if len(waiting) == 2:
            collect()
    while waiting:
        collect()


def test_a_download_that_nobody_waits_for_gives_its_slot_back(gpu: Gpu) -> None:
    tensor = gpu.upload(np.arange(6, dtype=np.uint8), np.dtype(np.uint8))
    for _ in range(20):
        gpu.download(tensor)
    np.testing.assert_array_equal(gpu.download(tensor).wait(), np.arange(6))
    assert gpu.device.live["pinned"] == IDLE_SLOTS


def test_slots_take_turns_grow_and_their_number_is_bounded(gpu: Gpu) -> None:
    for size in (64, 64, 128, 128, 256, *[64] * 20):
        array = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        np.testing.assert_array_equal(gpu.download(gpu.upload(array, array.dtype)).wait(), array)
    assert gpu.device.live["pinned"] == IDLE_SLOTS
