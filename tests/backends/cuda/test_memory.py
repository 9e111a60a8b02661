"""Memory is used again, trimmed when it piles up, and all of it goes back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fake_device import FakeDevice
from hiif_deploy.backends.cuda import memory as device_memory
from hiif_deploy.backends.cuda.memory import DevicePool, DeviceTensor, Packing
from hiif_deploy.backends.cuda.streams import Gpu
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


def test_memory_that_nobody_refers_to_is_taken_again(device: FakeDevice, pool: DevicePool) -> None:
    first = pool.take((10, 10), np.float32)
    address, row = first.address, first[3]
    del first
    second = pool.take((10, 10), np.float32)
    assert second.address != address, "a row of the first one is still in use"
    del row
    assert pool.take((10, 10), np.float32).address == address
    assert device.total["memory"] == 2


def test_a_block_twice_as_large_serves_and_a_larger_one_does_not(device: FakeDevice, pool: DevicePool) -> None:
    pool.take((1024,), np.uint8)
    kept = pool.take((512,), np.uint8)
    assert device.total["memory"] == 1
    pool.take((2048,), np.uint8)
    pool.take((512,), np.uint8)
    assert device.total["memory"] == 3
    assert kept.nbytes == 512


def test_idle_blocks_of_other_sizes_do_not_pile_up(
    device: FakeDevice, pool: DevicePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "IDLE_BYTES", 4096)
    for size in range(1, 40):
        pool.take((3000 * size,), np.uint8)
        assert pool.allocated_bytes <= 6500 * size + 4096
    assert device.live["memory"] <= 3


def test_where_memory_runs_out_idle_blocks_go_first(device: FakeDevice, pool: DevicePool) -> None:
    pool.take((600_000,), np.uint8)
    large = pool.take((900_000,), np.uint8)
    with pytest.raises(EngineError, match=r"200,192 bytes of GPU memory were requested beside 900,096 in use: allow"):
        pool.take((200_000,), np.uint8)
    assert (large.nbytes, device.live["memory"]) == (900_000, 1)


def test_packed_arrays_lie_behind_each_other_where_tensorrt_takes_them() -> None:
    packing = Packing({"a": ((2, 3), np.float32), "b": ((), np.int32), "c": ((5,), np.uint8)})
    assert packing.nbytes == 3 * 256
    tensors = packing.tensors(DeviceTensor(1024, (packing.nbytes,), np.dtype(np.uint8)))
    assert [(t.address, t.shape) for t in tensors.values()] == [(1024, (2, 3)), (1280, ()), (1536, (5,))]
    data = np.zeros(packing.nbytes, np.uint8)
    data[:24].view(np.float32)[...] = np.arange(6)
    data[256:260].view(np.int32)[...] = 7
    found = packing.arrays(data)
    np.testing.assert_array_equal(found["a"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert (found["b"], found["c"].shape) == (7, (5,))


def test_scratch_memory_only_grows(device: FakeDevice) -> None:
    gpu = Gpu(device)
    assert [gpu.scratch(size).nbytes for size in (1000, 500, 3000, 2000)] == [1000, 1000, 3000, 3000]
    assert gpu.pool.allocated_bytes == 1024 + 3072, "what was outgrown serves others"
