"""The fake GPU is no kinder than CUDA: what is not synchronised goes wrong under at least one schedule."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fake_device import FACTS, FREED_BYTE, FRESH_BYTE, FakeDevice, MisuseError, Schedule
from hiif_deploy.errors import EngineError

SIZE = 64


def _filled(value: int) -> NDArray[np.uint8]:
    return np.full(SIZE, value, dtype=np.uint8)


def _value(device: FakeDevice, address: int) -> int:
    """The one value of a block's bytes, now."""
    (value,) = set(device.from_address(address, SIZE).tolist())
    return int(value)


# What happens without the synchronisation that CUDA asks for


@pytest.mark.parametrize("schedule", ["late", "rivals"])
def test_a_download_shows_nothing_before_its_stream_is_synchronised(schedule: Schedule) -> None:
    device = FakeDevice(schedule=schedule)
    stream, other, address = device.stream(), device.stream(), device.allocate(SIZE)
    sent, back = _filled(1), _filled(9)
    device.upload(address, sent, stream)
    device.download(back, address, stream)
    assert (back == 9).all()
    if schedule == "late":
        device.synchronize(other)
        assert (back == 9).all(), "synchronising another stream does not help"
    device.synchronize(stream)
    assert (back == 1).all()


def test_a_staging_buffer_that_is_reused_too_soon_uploads_the_later_bytes() -> None:
    device = FakeDevice()
    stream, staging = device.stream(), device.pinned(SIZE)
    addresses = [device.allocate(SIZE) for _ in range(2)]
    for value, address in enumerate(addresses):
        staging.fill(value)
        device.upload(address, staging, stream)
    device.synchronize(stream)
    assert [_value(device, address) for address in addresses] == [1, 1]


def test_a_staging_buffer_that_is_filled_too_late_uploads_the_earlier_bytes() -> None:
    device = FakeDevice(schedule="early")
    stream, staging, address = device.stream(), device.pinned(SIZE), device.allocate(SIZE)
    staging.fill(1)
    device.upload(address, staging, stream)
    staging.fill(2)
    device.synchronize(stream)
    assert _value(device, address) == 1


def test_a_stream_that_does_not_wait_reads_what_was_there_before() -> None:
    device = FakeDevice()
    writer, reader, address = device.stream(), device.stream(), device.allocate(SIZE)
    sent, back = _filled(1), _filled(0)
    device.upload(address, sent, writer)
    device.download(back, address, reader)
    device.synchronize(reader)
    assert (back == FRESH_BYTE).all()


def test_a_stream_that_does_not_wait_overwrites_what_is_still_to_be_read() -> None:
    device = FakeDevice(schedule="rivals")
    reader, writer, address = device.stream(), device.stream(), device.allocate(SIZE)
    sent, back = _filled(1), _filled(0)
    device.upload(address, sent, reader)
    device.synchronize(reader)
    device.download(back, address, reader)
    device.clear(address, SIZE, writer)
    device.synchronize(reader)
    assert (back == 0).all()


@pytest.mark.parametrize("schedule", ["late", "rivals"])
def test_a_wait_covers_what_was_recorded_when_it_was_called_and_no_more(schedule: Schedule) -> None:
    device = FakeDevice(schedule=schedule)
    writer, reader, event, address = device.stream(), device.stream(), device.event(), device.allocate(SIZE)
    first, second, back = _filled(1), _filled(2), _filled(0)
    device.upload(address, first, writer)
    device.record(event, writer)
    device.wait(writer, event_of_reader := device.event())
    device.wait(reader, event)
    device.download(back, address, reader)
    device.record(event_of_reader, reader)
    device.wait(writer, event_of_reader)
    device.upload(address, second, writer)
    device.record(event, writer)
    device.synchronize(reader)
    assert (back == 1).all()
    device.synchronize_event(event)
    assert _value(device, address) == 2


@pytest.mark.parametrize("order", ["waits before it is recorded", "records before the work"])
def test_an_event_in_the_wrong_place_orders_nothing(order: str) -> None:
    device = FakeDevice()
    writer, reader, event, address = device.stream(), device.stream(), device.event(), device.allocate(SIZE)
    sent, back = _filled(1), _filled(0)
    if order == "waits before it is recorded":
        device.wait(reader, event)
        device.upload(address, sent, writer)
        device.record(event, writer)
    else:
        device.record(event, writer)
        device.upload(address, sent, writer)
        device.wait(reader, event)
    device.download(back, address, reader)
    device.synchronize(reader)
    assert (back == FRESH_BYTE).all()


def test_synchronising_an_event_forces_what_was_before_it_and_nothing_behind() -> None:
    device = FakeDevice()
    stream, event, before, behind = device.stream(), device.event(), device.allocate(SIZE), device.allocate(SIZE)
    device.clear(before, SIZE, stream)
    device.record(event, stream)
    device.clear(behind, SIZE, stream)
    device.synchronize_event(event)
    assert (_value(device, before), _value(device, behind)) == (0, FRESH_BYTE)


def test_a_forced_wait_forces_the_other_stream_only_as_far_as_the_event() -> None:
    device = FakeDevice()
    first, second, event = device.stream(), device.stream(), device.event()
    for name in ("a", "b"):
        device.enqueue(first, name, lambda: None)
    device.record(event, first)
    device.enqueue(first, "c", lambda: None)
    device.wait(second, event)
    device.enqueue(second, "d", lambda: None)
    device.synchronize(second)
    assert list(device.ran) == ["a", "b", "record", "wait", "d"]


def test_rivals_run_first_but_not_past_a_wait() -> None:
    device = FakeDevice(schedule="rivals")
    first, second, event = device.stream(), device.stream(), device.event()
    device.enqueue(second, "a", lambda: None)
    device.enqueue(first, "b", lambda: None)
    device.record(event, first)
    device.wait(second, event)
    device.enqueue(second, "c", lambda: None)
    device.synchronize(first)
    assert list(device.ran) == ["a", "b", "record"]


# What CUDA would not tell


def test_memory_that_queued_work_uses_is_not_freed() -> None:
    device = FakeDevice()
    stream, address = device.stream(), device.allocate(SIZE)
    device.clear(address + 8, 8, stream)
    with pytest.raises(MisuseError, match="is freed while queued work still uses it: clear"):
        device.free(address)
    device.synchronize(stream)
    device.free(address)


def test_memory_that_a_queued_engine_uses_is_not_freed() -> None:
    device = FakeDevice()
    stream, address = device.stream(), device.allocate(SIZE)
    device.enqueue(stream, "engine", lambda: None, [(address, SIZE)])
    with pytest.raises(MisuseError, match="still uses it: engine"):
        device.free(address)


def test_page_locked_memory_that_queued_work_uses_is_not_freed() -> None:
    device = FakeDevice()
    stream, address, block = device.stream(), device.allocate(SIZE), device.pinned(2 * SIZE)
    device.upload(address, block[SIZE:], stream)
    with pytest.raises(MisuseError, match="is freed while queued work still uses it: upload"):
        device.free(block.ctypes.data)


def test_a_host_array_that_dies_before_its_copy_is_noticed() -> None:
    device = FakeDevice()
    stream, address = device.stream(), device.allocate(SIZE)
    kept = np.arange(SIZE, dtype=np.uint8)
    device.upload(address, kept[:SIZE].view(np.int32), stream)
    device.synchronize(stream)
    device.upload(address, kept.copy(), stream)
    with pytest.raises(MisuseError, match="a host array died before its copy ran"):
        device.synchronize(stream)


def test_freed_memory_cannot_be_used() -> None:
    device = FakeDevice()
    stream, address = device.stream(), device.allocate(SIZE)
    view = device.from_address(address, SIZE)
    device.free(address)
    assert (view == FREED_BYTE).all()
    with pytest.raises(MisuseError, match="are not allocated: freed, or never were"):
        device.clear(address, SIZE, stream)
    with pytest.raises(MisuseError, match="are not allocated"):
        device.from_address(address, 1)


def test_freed_addresses_do_not_come_back_soon() -> None:
    device = FakeDevice()
    seen = []
    for _ in range(100):
        seen.append(device.allocate(SIZE))
        device.free(seen[-1])
    assert len(set(seen)) == 100


def test_no_copy_reaches_beyond_its_block() -> None:
    device = FakeDevice()
    stream, address, other = device.stream(), device.allocate(SIZE), device.allocate(2 * SIZE)
    with pytest.raises(MisuseError, match=r"65 bytes at .* reach beyond the block of 64 bytes"):
        device.upload(address, np.zeros(SIZE + 1, dtype=np.uint8), stream)
    with pytest.raises(MisuseError, match="reach beyond"):
        device.copy_rows(address, 16, other, 16, 9, 5, stream)
    with pytest.raises(MisuseError, match="reach beyond"):
        device.from_address(address - 1, 2)
    device.copy_rows(address, 16, other, 32, 16, 4, stream)


def test_what_an_engine_writes_outside_of_its_block_is_noticed_at_its_end() -> None:
    device = FakeDevice()
    address = device.allocate(SIZE)
    ctypes.memset(address + SIZE, 0, 1)
    with pytest.raises(MisuseError, match="something wrote outside of 64 bytes"):
        device.free(address)


def test_a_misuse_that_was_swallowed_is_told_again_at_the_end() -> None:
    device = FakeDevice()
    with suppress(MisuseError):
        device.from_address(1, 1)
    with pytest.raises(MisuseError, match="misused before: 1 bytes at 0x1"):
        device.close()


def test_a_stream_with_work_left_is_not_freed() -> None:
    device = FakeDevice()
    stream, address = device.stream(), device.allocate(SIZE)
    device.clear(address, SIZE, stream)
    with pytest.raises(MisuseError, match="work left"):
        device.free(stream)


def test_fresh_memory_is_nan_and_no_valid_index() -> None:
    device = FakeDevice()
    for block in (device.from_address(device.allocate(SIZE), SIZE), device.pinned(SIZE)):
        for dtype in (np.float16, np.float32, np.float64):
            assert np.isnan(block.view(dtype)).all()
        assert (block.view(np.int32) == -1).all()


# What tests count


def test_what_is_handed_out_is_counted() -> None:
    device = FakeDevice()
    stream, address = device.stream(), device.allocate(100)
    second = device.allocate(50)
    device.free(second)
    device.pinned(8)
    device.free(device.event())
    device.clear(address, 100, stream)
    assert device.live == {"stream": 1, "memory": 1, "pinned": 1}
    assert device.total == {"stream": 1, "memory": 2, "pinned": 1, "event": 1}
    assert (device.live_bytes, device.peak_bytes) == (100, 150)
    device.close()
    assert not device.live
    assert device.live_bytes == 0


def test_a_thousand_frames_that_leak_are_told_from_a_thousand_that_do_not() -> None:
    device = FakeDevice(log_size=100)
    stream = device.stream()
    for _ in range(1000):
        address, block = device.allocate(SIZE), device.pinned(SIZE)
        device.upload(address, block, stream)
        device.synchronize(stream)
        device.free(address)
    assert device.live == {"stream": 1, "pinned": 1000}
    assert len(device.queued) == 100


def test_operations_are_logged_with_their_streams() -> None:
    device = FakeDevice()
    first, address, second = device.stream(), device.allocate(SIZE), device.stream()
    device.clear(address, SIZE, second)
    device.enqueue(first, "engine", lambda: None)
    assert list(device.queued) == [
        ("clear", second),
        ("engine", first),
    ]
    assert not device.ran


def test_the_memory_limit_is_that_of_the_facts_or_a_smaller_one() -> None:
    device = FakeDevice(facts=replace(FACTS, memory=1000))
    address = device.allocate(900)
    with pytest.raises(EngineError, match="out of memory"):
        device.allocate(101)
    device.free(address)
    device.allocate(1000)
    with pytest.raises(EngineError, match="out of memory"):
        FakeDevice(memory_limit=50).allocate(51)
