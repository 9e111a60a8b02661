"""The cuda-python layer on a stand-in with the real signatures, and what of the real package runs without a driver."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fake_cuda_runtime
from device_protocol import PROTOCOL
from fake_cuda_runtime import FakeCudaRuntime, cudaError_t
from fake_device import SCHEDULES, FakeDevice, Schedule
from hiif_deploy.backends.cuda import cuda_python as cuda_python_device
from hiif_deploy.backends.cuda.cuda_python import CudaPythonDevice
from hiif_deploy.backends.cuda.device import Device, DeviceFacts
from hiif_deploy.backends.cuda.open import open_device
from hiif_deploy.errors import EngineError

SMALL = DeviceFacts(gpu="Fake GPU", capability="8.9", driver="12.9", memory=1 << 22)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeCudaRuntime:
    stand_in = FakeCudaRuntime(FakeDevice(facts=SMALL))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", stand_in)
    return stand_in


@pytest.fixture
def real() -> ModuleType:
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings, which is not installed")
    from cuda.bindings import runtime

    module: ModuleType = runtime
    return module


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("fact", PROTOCOL, ids=lambda fact: fact.__name__)
def test_the_layer_keeps_the_protocol(
    fact: Callable[[Device], None], schedule: Schedule, runtime: FakeCudaRuntime
) -> None:
    runtime.device.schedule = schedule
    device = CudaPythonDevice()
    fact(device)
    device.close()
    assert not runtime.device.live, "close gives everything back"
    runtime.device.close()


def test_facts_are_those_of_the_driver(runtime: FakeCudaRuntime) -> None:
    assert CudaPythonDevice().facts() == runtime.device.facts()


def test_everything_is_synchronised_before_it_is_given_back(runtime: FakeCudaRuntime) -> None:
    device = CudaPythonDevice()
    device.allocate(16)
    device.stream()
    device.close()
    names = [call[0] for call in runtime.calls]
    assert names[-3:] == ["cudaDeviceSynchronize", "cudaStreamDestroy", "cudaFree"]


CALLS: dict[str, Callable[[Any, int], Any]] = {
    "cudaMalloc": lambda device, _: device.allocate(16),
    "cudaMallocHost": lambda device, _: device.pinned(16),
    "cudaMemcpyAsync": lambda device, stream: device.upload(0, np.zeros(4), stream),
    "cudaMemcpy2DAsync": lambda device, stream: device.copy_rows(0, 4, 0, 4, 4, 1, stream),
    "cudaMemsetAsync": lambda device, stream: device.clear(0, 4, stream),
    "cudaStreamCreateWithFlags": lambda device, _: device.stream(),
    "cudaStreamSynchronize": lambda device, stream: device.synchronize(stream),
    "cudaStreamDestroy": lambda device, stream: device.free(stream),
    "cudaEventCreateWithFlags": lambda device, _: device.event(),
    "cudaEventRecord": lambda device, stream: device.record(device.event(), stream),
    "cudaStreamWaitEvent": lambda device, stream: device.wait(stream, device.event()),
    "cudaEventSynchronize": lambda device, _: device.synchronize_event(device.event()),
    "cudaGetDeviceProperties": lambda device, _: device.facts(),
    "cudaDriverGetVersion": lambda device, _: device.facts(),
    "cudaDeviceSynchronize": lambda device, _: device.close(),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_error_of_any_call_is_told_in_cudas_words(name: str, runtime: FakeCudaRuntime) -> None:
    device = CudaPythonDevice()
    stream = device.stream()
    runtime.fail[name] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match=f"cuda-python.*{name}.* failed: cudaErrorIllegalAddress: text of 700"):
        CALLS[name](device, stream)


def test_the_gpu_is_current_inside_and_the_threads_own_choice_comes_back(runtime: FakeCudaRuntime) -> None:
    device = CudaPythonDevice()
    runtime.current = 1
    with device.current():
        assert runtime.current == 0
        with device.current():
            pass
        assert runtime.current == 0
    assert runtime.current == 1


def test_close_gives_back_what_it_can_after_an_error(runtime: FakeCudaRuntime) -> None:
    device = CudaPythonDevice()
    device.allocate(16)
    runtime.fail["cudaDeviceSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match="cudaDeviceSynchronize"):
        device.close()
    assert not runtime.device.live
    device.close()


def test_a_missing_package_is_named_with_what_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineError, match=r"cuda-python cannot be imported.*add it with: pip install cuda-bindings"):
        CudaPythonDevice()


def test_the_stand_in_has_the_real_signatures(real: ModuleType) -> None:
    functions = fake_cuda_runtime.functions()
    assert len(functions) == 22
    for name, function in functions.items():
        expected = list(inspect.signature(getattr(real, name)).parameters)
        assert list(inspect.signature(function).parameters)[1:] == expected, name
    for name in ("cudaError_t", "cudaMemcpyKind"):
        for member in getattr(fake_cuda_runtime, name):
            assert int(getattr(getattr(real, name), member.name)) == member, member
    for name in ("cudaStreamNonBlocking", "cudaEventDisableTiming"):
        assert int(getattr(real, name)) == getattr(FakeCudaRuntime, name)


def test_the_layer_calls_nothing_beside_what_was_compared() -> None:
    source = inspect.getsource(cuda_python_device)
    used = set(re.findall(r"\bcuda[A-Z]\w+", source))
    constants = "Error_t|ErrorMem|Success|Kind|Mode|cudaMemcpy.*To|NonBlocking|DisableTiming"
    calls = {name for name in used if not re.search(constants, name)}
    assert calls == set(fake_cuda_runtime.functions())


def _without_driver(real: ModuleType) -> CudaPythonDevice:
    """The layer over the real module, past the opening that fails where there is no driver."""
    if real.cudaGetDeviceCount()[0] == real.cudaError_t.cudaSuccess:
        pytest.skip("needs a machine without a GPU: invented handles would be used")
    device = CudaPythonDevice.__new__(CudaPythonDevice)
    super(CudaPythonDevice, device).__init__()
    assert device._library is real
    return device


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"cudaDriverGetVersion"}))
def test_the_real_package_takes_the_arguments_of_each_call(name: str, real: ModuleType) -> None:
    device = _without_driver(real)
    device._live[5] = lambda: device._call("cudaStreamDestroy", 5)
    device.event = lambda: 6  # type: ignore[method-assign]
    if name == "cudaEventCreateWithFlags":
        del device.event
    with pytest.raises(EngineError, match=r"failed: cudaErrorInsufficientDriver: \w+"):
        CALLS[name](device, 5)


@pytest.mark.parametrize("name", ["cudaFree", "cudaFreeHost", "cudaEventDestroy"])
def test_the_real_package_takes_the_arguments_of_what_frees(name: str, real: ModuleType) -> None:
    with pytest.raises(EngineError, match=f"{name} failed: cudaErrorInsufficientDriver"):
        _without_driver(real)._call(name, 5)


def test_without_a_driver_opening_says_so_in_cudas_words(real: ModuleType) -> None:
    if real.cudaGetDeviceCount()[0] == real.cudaError_t.cudaSuccess:
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(EngineError, match=r"cuda-python \d.*cudaErrorInsufficientDriver.*install or update the NVIDIA"):
        open_device("cuda-python")


def test_the_real_packages_properties_have_the_names_that_facts_reads(real: ModuleType) -> None:
    properties = real.cudaDeviceProp()
    assert isinstance(properties.name, bytes)
    assert [properties.major, properties.minor, properties.totalGlobalMem] == [0, 0, 0]
