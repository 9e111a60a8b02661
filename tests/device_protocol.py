"""What every `Device` promises, as functions that take one: run on the fake, the stand-ins and real GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import Device, Stream
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


def rows_that_overlap_are_refused(device: Device) -> None:
    stream, address = device.stream(), device.allocate(1000)
    with pytest.raises(EngineError, match="rows of 30 bytes do not fit pitches of \\(20, 40\\) bytes"):
        device.copy_rows(address, 20, address + 500, 40, 30, 2, stream)


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


def nothing_is_freed_twice(device: Device) -> None:
    stream = device.stream()
    things: list[tuple[Callable[[Any], None], Any]] = [
        (device.free, device.allocate(16)),
        (device.free_pinned, device.pinned(16)),
        (device.free_stream, stream),
        (device.free_event, device.event()),
    ]
    for free, thing in reversed(things):
        free(thing)
        with pytest.raises(EngineError, match="is not in use: freed before"):
            free(thing)


def an_address_inside_a_block_cannot_be_freed(device: Device) -> None:
    address = device.allocate(1024)
    with pytest.raises(EngineError, match="is not in use"):
        device.free(address + 256)
    device.free(address)


def a_lack_of_memory_is_told_in_bytes(device: Device) -> None:
    with pytest.raises(
        EngineError, match=r"35,184,372,088,832 bytes were requested, [\d,]+ of [\d,]+ are free; .*--mem"
    ):
        device.allocate(1 << 45)
    _still_works(device, device.stream())


def sizes_below_one_are_refused(device: Device) -> None:
    for size in (0, -1):
        with pytest.raises(EngineError, match=f"{size} bytes cannot be allocated"):
            device.allocate(size)
        with pytest.raises(EngineError, match=f"{size} bytes cannot be allocated"):
            device.pinned(size)


def only_contiguous_arrays_are_copied(device: Device) -> None:
    stream, address = device.stream(), device.allocate(64)
    strided, fixed = np.zeros((8, 8), dtype=np.uint8).T[:, ::2], np.zeros(8, dtype=np.uint8)
    fixed.flags.writeable = False
    with pytest.raises(EngineError, match="not C-contiguous"):
        device.upload(address, strided, stream)
    with pytest.raises(EngineError, match="not C-contiguous"):
        device.download(strided, address, stream)
    with pytest.raises(EngineError, match="read-only"):
        device.download(fixed, address, stream)
    device.upload(address, fixed, stream)
    device.synchronize(stream)


def a_thousand_blocks_come_and_go(device: Device) -> None:
    size = device.facts().memory // 100
    for _ in range(1000):
        device.free(device.allocate(size))
    for _ in range(1000):
        device.free_pinned(device.pinned(4096))
        device.free_event(device.event())
        device.free_stream(device.stream())


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
        device.free_event(event)
        device.free_stream(other)
        return device.pinned(16)

    with ThreadPoolExecutor(1) as pool:
        block = pool.submit(elsewhere).result()
    assert (_bytes(device, address, 16, stream) == 4).all()
    device.free_pinned(block)


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
        lambda: device.free(address),
        lambda: device.free_stream(stream),
        lambda: device.clear(address, 16, stream),
        lambda: device.synchronize(stream),
        device.stream,
        device.event,
        device.facts,
    ]
    for call in calls:
        with pytest.raises(EngineError, match=r"closed|not in use"):
            call()


PROTOCOL: list[Callable[[Device], None]] = [
    an_upload_comes_back_unchanged,
    ordinary_arrays_of_any_dtype_can_be_copied,
    pinned_memory_is_plain_bytes,
    addresses_are_aligned_and_distinct,
    clear_zeroes_its_bytes_only,
    copy_rows_moves_a_rectangle_between_pitches,
    rows_that_overlap_are_refused,
    an_event_orders_two_streams,
    an_event_tells_when_a_host_buffer_is_free_again,
    an_event_that_was_never_recorded_holds_nothing_back,
    nothing_is_freed_twice,
    an_address_inside_a_block_cannot_be_freed,
    a_lack_of_memory_is_told_in_bytes,
    sizes_below_one_are_refused,
    only_contiguous_arrays_are_copied,
    a_thousand_blocks_come_and_go,
    any_thread_may_call,
    the_facts_are_plausible,
    close_gives_everything_back_and_ends_the_device,
]
"""What every device does."""


def _bytes(device: Device, address: int, size: int, stream: Stream) -> NDArray[np.uint8]:
    """What the GPU holds once the stream is done."""
    back = np.empty(size, dtype=np.uint8)
    device.download(back, address, stream)
    device.synchronize(stream)
    return back


def _still_works(device: Device, stream: Stream) -> None:
    address = device.allocate(16)
    device.clear(address, 16, stream)
    assert not _bytes(device, address, 16, stream).any()
    device.free(address)
