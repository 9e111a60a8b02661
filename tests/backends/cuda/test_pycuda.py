"""The pycuda layer on a stand-in for `pycuda.driver`, and its names in the real package where that is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from device_protocol import PROTOCOL
from fake_device import SCHEDULES, FakeDevice, Schedule
from fake_pycuda import Error, FakePycuda
from hiif_deploy.backends.cuda.device import Device, DeviceFacts
from hiif_deploy.backends.cuda.open import open_device
from hiif_deploy.backends.cuda.pycuda import PycudaDevice, primary_context
from hiif_deploy.errors import EngineError

SMALL = DeviceFacts(gpu="Fake GPU", capability="7.5", driver="12.9", memory=1 << 22)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePycuda]:
    stand_in = FakePycuda(FakeDevice(facts=SMALL))
    monkeypatch.setitem(sys.modules, "pycuda.driver", stand_in)
    primary_context.cache_clear()
    yield stand_in
    primary_context.cache_clear()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("fact", PROTOCOL, ids=lambda fact: fact.__name__)
def test_the_layer_keeps_the_protocol(fact: Callable[[Device], None], schedule: Schedule, driver: FakePycuda) -> None:
    driver.device.schedule = schedule
    device = PycudaDevice()
    fact(device)
    device.close()
    assert not driver.device.live, "close gives everything back"
    driver.device.close()


def test_facts_are_those_of_the_driver(driver: FakePycuda) -> None:
    assert PycudaDevice().facts() == driver.device.facts()


def test_no_thread_is_left_with_a_context(driver: FakePycuda) -> None:
    # pycuda aborts the process when a thread ends with one.
    device = PycudaDevice()

    def elsewhere() -> int:
        address, stream = device.allocate(16), device.stream()
        device.clear(address, 16, stream)
        device.synchronize(stream)
        with device.current():
            assert driver.depth == 1
        return driver.depth

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == 0
    with pytest.raises(EngineError):
        device.allocate(1 << 40)
    device.close()
    assert driver.depth == 0


def test_two_devices_share_one_primary_context(driver: FakePycuda) -> None:
    one, two = PycudaDevice(), PycudaDevice()
    assert one._context is two._context
    one.close()
    stream, address = two.stream(), two.allocate(8)
    two.clear(address, 8, stream)
    two.synchronize(stream)
    assert not driver.device.from_address(address, 8).any()
    two.close()


def test_the_primary_context_is_given_back_at_exit(driver: FakePycuda, monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[object] = []
    monkeypatch.setattr("hiif_deploy.backends.cuda.pycuda.atexit.register", registered.append)
    device = PycudaDevice()
    assert registered == [device._context.detach]
    device.close()
    assert not driver.device.live


def test_a_stream_has_the_handle_that_tensorrt_takes(driver: FakePycuda) -> None:
    device = PycudaDevice()
    stream, address = device.stream(), device.allocate(8)
    assert isinstance(stream, int)
    driver.device.enqueue(stream, "engine", lambda: driver.device.from_address(address, 8).fill(5))
    back = np.zeros(8, dtype=np.uint8)
    device.download(back, address, stream)
    device.synchronize(stream)
    assert (back == 5).all()
    device.close()


def test_streams_and_events_are_destroyed_while_the_context_is_current_and_unusable_then(driver: FakePycuda) -> None:
    device = PycudaDevice()
    stream, event = device.stream(), device.event()
    device.close()
    assert driver.calls[-3:] == ["Context.synchronize", "cuEventDestroy", "cuStreamDestroy"]
    with pytest.raises(EngineError, match="is closed"):
        device.synchronize(stream)
    with pytest.raises(EngineError, match="is closed"):
        device.synchronize_event(event)


def test_an_error_of_cuda_is_told_in_its_words(driver: FakePycuda, monkeypatch: pytest.MonkeyPatch) -> None:
    device = PycudaDevice()
    stream = device.stream()

    def fail(*_: object) -> None:
        raise Error("cuMemsetD8Async failed: an illegal memory access was encountered")

    monkeypatch.setattr(driver, "memset_d8_async", fail)
    with pytest.raises(EngineError, match=r"pycuda.*: cuMemsetD8Async failed: an illegal memory"):
        device.clear(0, 5000, stream)
    device.close()


def test_a_missing_package_is_named_with_what_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    primary_context.cache_clear()
    with pytest.raises(EngineError, match=r"pycuda cannot be imported.*add it with: pip install pycuda"):
        PycudaDevice()


def test_a_missing_driver_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver:
        def find_spec(self, name: str, *_: object) -> None:
            if name in ("pycuda", "pycuda.driver"):
                raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
    monkeypatch.delitem(sys.modules, "pycuda", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoDriver(), *sys.meta_path])
    primary_context.cache_clear()
    with pytest.raises(EngineError, match=r"\(libcuda.so.1: cannot .*\); add it with: pip .* the NVIDIA driver"):
        open_device("pycuda")


def test_a_driver_without_a_gpu_is_told_in_cudas_words(driver: FakePycuda) -> None:
    driver.init_error = "cuInit failed: no CUDA-capable device is detected"
    with pytest.raises(EngineError, match="CUDA does not start: cuInit failed: no CUDA-capable device is detected"):
        PycudaDevice()


def test_the_real_package_has_every_name_of_the_stand_in() -> None:
    real = pytest.importorskip("pycuda.driver", reason="needs pycuda and libcuda.so.1", exc_type=ImportError)
    for name in ("init", "get_driver_version", "mem_alloc", "pagelocked_empty", "Error"):
        assert hasattr(real, name), name
    assert real.event_flags.DISABLE_TIMING == 2
    members = {
        real.Context: ("push", "pop", "synchronize", "detach"),
        real.Device: ("name", "compute_capability", "total_memory", "retain_primary_context"),
        real.DeviceAllocation: ("free", "__int__"),
        real.PagelockedHostAllocation: ("free",),
        real.Stream: ("handle", "synchronize", "wait_for_event"),
        real.Event: ("record", "synchronize"),
        real.Memcpy2D: ("set_src_device", "set_dst_device", "src_pitch", "dst_pitch", "width_in_bytes", "height"),
    }
    for kind, names in members.items():
        assert [name for name in names if not hasattr(kind, name)] == [], kind
    for name in ("memcpy_htod_async", "memcpy_dtoh_async"):
        assert "(object)stream=None" in getattr(real, name).__doc__
    assert "(int)data, (int)size [, (object)stream=None" in real.memset_d8_async.__doc__
