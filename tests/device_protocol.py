"""What every `Device` promises, as functions that take one: run on the fake, the stand-ins and real GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.errors import EngineError


def an_upload_comes_back_unchanged(device: Device) -> None:
    stream = device.stream()
    for size in (1, 255, 4096, 100_003):
        sent, back = device.pinned(size), device.pinned(size)
        sent[...] = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        expected = sent.copy()
        address = device.allocate(size)
        device.upload(address, sent, stream)
        device.download(back, address, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(back, expected)


def ordinary_arrays_of_any_dtype_can_be_copied(device: Device) -> None:
    stream = device.stream()
    for dtype in (np.float32, np.float16, np.int32, np.float64):
        sent = np.arange(30, dtype=dtype).reshape(2, 3, 5)
        back = np.zeros_like(sent)
        address = device.allocate(sent.nbytes)
        device.upload(address, sent, stream)
        device.download(back, address, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(back, sent)


def pinned_memory_is_plain_bytes(device: Device) -> None:
    block = device.pinned(24)
    assert block.dtype == np.uint8
    assert block.shape == (24,)
    assert block.flags.c_contiguous
    assert block.flags.writeable
    block.view(np.float32)[...] = np.arange(6)
    np.testing.assert_array_equal(block.view(np.float32), np.arange(6, dtype=np.float32))


def addresses_are_aligned_and_distinct(device: Device) -> None:
    addresses = [device.allocate(size) for size in (1, 100, 257, 5000)]
    assert all(isinstance(address, int) and address % 256 == 0 for address in addresses)
    assert len(set(addresses)) == len(addresses)


def clear_zeroes_its_bytes_only(device: Device) -> None:
    stream, address = device.stream(), device.allocate(100)
    device.upload(address, (sent := np.full(100, 7, dtype=np.uint8)), stream)
    device.clear(address + 10, 50, stream)
    expected = sent.copy()
    expected[10:60] = 0
    np.testing.assert_array_equal(_bytes(device, address, 100, stream), expected)


def copy_rows_moves_a_rectangle_between_pitches(device: Device) -> None:
    stream, wide, narrow = device.stream(), device.allocate(8 * 64), device.allocate(5 * 24)
    picture = np.random.default_rng(3).integers(0, 256, (8, 64), dtype=np.uint8)
    device.upload(wide, picture, stream)
    device.clear(narrow, 5 * 24, stream)
    device.copy_rows(narrow + 2, 24, wide + 3 * 64 + 9, 64, 20, 5, stream)
    expected = np.zeros((5, 24), dtype=np.uint8)
    expected[:, 2:22] = picture[3:8, 9:29]
    np.testing.assert_array_equal(_bytes(device, narrow, 5 * 24, stream).reshape(5, 24), expected)


def an_event_orders_two_streams(device: Device) -> None:
    first, second, event = device.stream(), device.stream(), device.event()
    size = 1 << 20
    sent, back = device.pinned(size), device.pinned(size)
    address = device.allocate(size)
    for value in range(20):
        sent.fill(value)
        device.upload(address, sent, first)
        device.record(event, first)
        device.wait(second, event)
        device.download(back, address, second)
        device.synchronize(second)
        assert (back == value).all()


def an_event_tells_when_a_host_buffer_is_free_again(device: Device) -> None:
    stream, event, staging = device.stream(), device.event(), device.pinned(1 << 16)
    addresses = [device.allocate(1 << 16) for _ in range(4)]
    for value, address in enumerate(addresses):
        device.synchronize_event(event)
        staging.fill(value)
        device.upload(address, staging, stream)
        device.record(event, stream)
    for value, address in enumerate(addresses):
        assert (_bytes(device, address, 1 << 16, stream) == value).all()


def an_event_that_was_never_recorded_holds_nothing_back(device: Device) -> None:
    stream, event, address = device.stream(), device.event(), device.allocate(8)
    device.wait(stream, event)
    device.synchronize_event(event)
    device.clear(address, 8, stream)
    assert not _bytes(device, address, 8, stream).any()


def a_lack_of_memory_is_an_error_and_no_more(device: Device) -> None:
    with pytest.raises(EngineError, match=r"out of memory|cudaErrorMemoryAllocation"):
        device.allocate(1 << 45)
    address, stream = device.allocate(16), device.stream()
    device.clear(address, 16, stream)
    assert not _bytes(device, address, 16, stream).any()


def a_thousand_blocks_come_and_go(device: Device) -> None:
    size = device.facts().memory // 100
    for _ in range(1000):
        device.free(device.allocate(size))
    for _ in range(1000):
        device.free(device.pinned(4096).ctypes.data)


def any_thread_may_call(device: Device) -> None:
    main, stream = threading.get_ident(), device.stream()
    address, event = device.allocate(16), device.event()

    def elsewhere() -> NDArray[np.uint8]:
        assert threading.get_ident() != main
        other, mine = device.stream(), device.allocate(16)
        device.upload(mine, (sent := np.full(16, 4, dtype=np.uint8)), stream)
        device.record(event, stream)
        device.wait(other, event)
        device.copy_rows(address, 16, mine, 16, 16, 1, other)
        device.synchronize(other)
        assert sent.all()
        device.free(mine)
        return device.pinned(16)

    with ThreadPoolExecutor(1) as pool:
        block = pool.submit(elsewhere).result()
    assert (_bytes(device, address, 16, stream) == 4).all()
    device.free(block.ctypes.data)


def the_facts_are_plausible(device: Device) -> None:
    facts = device.facts()
    assert facts.gpu.strip() == facts.gpu != ""
    assert [int(part) >= 0 for part in facts.capability.split(".")] == [True, True]
    assert [int(part) >= 0 for part in facts.driver.split(".")] == [True, True]
    assert facts.memory > 0
    assert device.layer


def close_gives_everything_back_and_ends_the_device(device: Device) -> None:
    stream, address = device.stream(), device.allocate(16)
    device.event()
    device.pinned(16)
    device.clear(address, 16, stream)
    device.close()
    device.close()
    calls: list[Callable[[], Any]] = [
        lambda: device.allocate(16),
        lambda: device.pinned(16),
        lambda: device.clear(address, 16, stream),
        lambda: device.synchronize(stream),
        device.stream,
        device.event,
        device.facts,
    ]
    for call in calls:
        with pytest.raises(EngineError, match="closed"):
            call()


PROTOCOL: list[Callable[[Device], None]] = [
    an_upload_comes_back_unchanged,
    ordinary_arrays_of_any_dtype_can_be_copied,
    pinned_memory_is_plain_bytes,
    addresses_are_aligned_and_distinct,
    clear_zeroes_its_bytes_only,
    copy_rows_moves_a_rectangle_between_pitches,
    an_event_orders_two_streams,
    an_event_tells_when_a_host_buffer_is_free_again,
    an_event_that_was_never_recorded_holds_nothing_back,
    a_lack_of_memory_is_an_error_and_no_more,
    a_thousand_blocks_come_and_go,
    any_thread_may_call,
    the_facts_are_plausible,
    close_gives_everything_back_and_ends_the_device,
]
"""What every device does."""


def _bytes(device: Device, address: int, size: int, stream: int) -> NDArray[np.uint8]:
    """What the GPU holds once the stream is done."""
    back = np.empty(size, dtype=np.uint8)
    device.download(back, address, stream)
    device.synchronize(stream)
    return back
