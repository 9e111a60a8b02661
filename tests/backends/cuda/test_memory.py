"""Memory is used again, trimmed when it piles up, and all of it goes back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fake_device import FakeDevice
from hiif_deploy.backends.cuda import memory as device_memory
from hiif_deploy.backends.cuda.memory import DevicePool, DeviceTensor, Scratch
from hiif_deploy.errors import EngineError


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    device = FakeDevice(memory_limit=1 << 20)
    yield device
    device.close()


@pytest.fixture
def pool(device: FakeDevice) -> DevicePool:
    return DevicePool(device, device.synchronize)


def test_rows_of_a_tensor_are_the_same_memory() -> None:
    tensor = DeviceTensor(1024, (4, 3, 5), np.dtype(np.float16))
    assert tensor.nbytes == 120
    assert tensor.rows(1, 3) == DeviceTensor(1024 + 30, (2, 3, 5), np.dtype(np.float16))
    assert tensor[2] == DeviceTensor(1024 + 60, (3, 5), np.dtype(np.float16))


def test_what_was_given_back_is_taken_again(device: FakeDevice, pool: DevicePool) -> None:
    first = pool.take((10, 10), np.float32)
    pool.give(first)
    assert pool.take((10, 10), np.float32).address == first.address
    assert pool.take((10, 10), np.float32).address != first.address
    assert device.total["memory"] == 2


def test_a_block_twice_as_large_serves_and_a_larger_one_does_not(device: FakeDevice, pool: DevicePool) -> None:
    pool.give(pool.take((1024,), np.uint8))
    pool.take((512,), np.uint8)
    assert device.total["memory"] == 1
    pool.give(pool.take((2048,), np.uint8))
    pool.take((512,), np.uint8)
    assert device.total["memory"] == 3


def test_a_lease_gives_everything_back_even_after_an_error(device: FakeDevice, pool: DevicePool) -> None:
    def fail() -> None:
        with pool.lease() as take:
            take((100,), np.uint8)
            take((5000,), np.uint8)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pool.lease() as take:
        take((100,), np.uint8)
        take((5000,), np.uint8)
    assert device.total["memory"] == 2


def test_idle_blocks_of_other_sizes_do_not_pile_up(
    device: FakeDevice, pool: DevicePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "IDLE_BYTES", 4096)
    for size in range(1, 40):
        pool.give(pool.take((3000 * size,), np.uint8))
        assert pool.allocated_bytes <= 6500 * size + 4096
    assert device.live["memory"] <= 3


def test_where_memory_runs_out_idle_blocks_go_first(device: FakeDevice, pool: DevicePool) -> None:
    pool.give(pool.take((600_000,), np.uint8))
    assert pool.take((900_000,), np.uint8).nbytes == 900_000
    with pytest.raises(EngineError, match="memory"):
        pool.take((200_000,), np.uint8)
    assert device.live["memory"] == 1


def test_a_closed_pool_has_freed_everything_and_ignores_late_comers(device: FakeDevice, pool: DevicePool) -> None:
    kept, given = pool.take((10,), np.uint8), pool.take((20,), np.uint8)
    pool.give(given)
    pool.close()
    pool.give(kept)
    assert device.live["memory"] == 0
    assert pool.allocated_bytes == 0


def test_scratch_memory_only_grows(device: FakeDevice) -> None:
    scratch = Scratch(device, device.synchronize)
    scratch.reserve(0)
    assert scratch.size == 0
    for size, expected in ((1000, 1000), (500, 1000), (2000, 2000)):
        scratch.reserve(size)
        assert scratch.size == expected
    assert device.live["memory"] == 1
    scratch.free()
    assert device.live["memory"] == 0
