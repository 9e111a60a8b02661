"""Stands in for the module `cuda.bindings.runtime`: the functions that the layer uses, with the real signatures.

Behind them is a `FakeDevice`, so that a wrong argument shows as wrong bytes. `signatures` are compared with the real
package wherever that is installed.
"""

# ruff: noqa: N801, N802, N803, N815 - CUDA's names

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

from fake_device import FakeDevice
from hiif_deploy.errors import EngineError


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


Answer = tuple[Any, ...]
OK = cudaError_t.cudaSuccess


class Handle:
    """A stream or event, as cuda-python wraps them: an object that is an integer when asked."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


class FakeCudaRuntime:
    """A module. `calls` are the calls in order; `fail` maps a function's name to the error that it answers."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.calls: list[tuple[Any, ...]] = []
        self.fail: dict[str, cudaError_t] = {}
        self.current = 0
        """The GPU that the thread chose last."""

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(value) or isinstance(value, type):
            return value

        def recorded(*arguments: Any) -> Answer:
            self.calls.append((name, *arguments))
            if name in self.fail:
                return self.fail[name], *[None] * OUTPUTS.get(name, 0)
            try:
                return tuple(value(*arguments))
            except EngineError as error:
                return _status(error), *[None] * OUTPUTS.get(name, 0)

        return recorded

    def cudaGetErrorName(self, error: IntEnum) -> Answer:
        return OK, error.name.encode()

    def cudaGetErrorString(self, error: IntEnum) -> Answer:
        return OK, f"text of {int(error)}".encode()

    def cudaSetDevice(self, device: int) -> Answer:
        self.current = device
        return (OK,)

    def cudaGetDevice(self) -> Answer:
        return OK, self.current

    def cudaGetDeviceProperties(self, device: int) -> Answer:
        assert device == 0
        facts = self.device.facts()
        major, minor = (int(part) for part in facts.capability.split("."))
        return OK, SimpleNamespace(name=facts.gpu.encode(), major=major, minor=minor, totalGlobalMem=facts.memory)

    def cudaDriverGetVersion(self) -> Answer:
        major, minor = (int(part) for part in self.device.facts().driver.split("."))
        return OK, 1000 * major + 10 * minor

    def cudaMalloc(self, size: int) -> Answer:
        return OK, self.device.allocate(size)

    def cudaFree(self, devPtr: int) -> Answer:
        self.device.free(devPtr)
        return (OK,)

    def cudaMallocHost(self, size: int) -> Answer:
        return OK, self.device.pinned(size).ctypes.data

    def cudaFreeHost(self, ptr: int) -> Answer:
        self.device.free(ptr)
        return (OK,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: IntEnum, stream: int) -> Answer:
        if kind is cudaMemcpyKind.cudaMemcpyHostToDevice:
            self.device.upload(dst, _host(src, count), stream)
        else:
            assert kind is cudaMemcpyKind.cudaMemcpyDeviceToHost
            self.device.download(_host(dst, count), src, stream)
        return (OK,)

    def cudaMemcpy2DAsync(
        self,
        dst: int,
        dpitch: int,
        src: int,
        spitch: int,
        width: int,
        height: int,
        kind: IntEnum,
        stream: int,
    ) -> Answer:
        assert kind is cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.device.copy_rows(dst, dpitch, src, spitch, width, height, stream)
        return (OK,)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: int) -> Answer:
        assert value == 0
        self.device.clear(devPtr, count, stream)
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Answer:
        assert flags == self.cudaStreamNonBlocking
        return OK, Handle(self.device.stream())

    def cudaStreamDestroy(self, stream: int) -> Answer:
        self.device.free(stream)
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> Answer:
        self.device.synchronize(stream)
        return (OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> Answer:
        assert flags == self.cudaEventDisableTiming
        return OK, Handle(self.device.event())

    def cudaEventDestroy(self, event: int) -> Answer:
        self.device.free(event)
        return (OK,)

    def cudaEventRecord(self, event: int, stream: int) -> Answer:
        self.device.record(event, stream)
        return (OK,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> Answer:
        assert flags == 0
        self.device.wait(stream, event)
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> Answer:
        self.device.synchronize_event(event)
        return (OK,)

    def cudaDeviceSynchronize(self) -> Answer:
        self.device.synchronize()
        return (OK,)


OUTPUTS = {
    "cudaGetErrorName": 1,
    "cudaGetErrorString": 1,
    "cudaGetDeviceProperties": 1,
    "cudaDriverGetVersion": 1,
    "cudaMalloc": 1,
    "cudaMallocHost": 1,
    "cudaStreamCreateWithFlags": 1,
    "cudaEventCreateWithFlags": 1,
}
"""How many values a function answers beside the status; None each where it failed."""


def functions() -> dict[str, Callable[..., Answer]]:
    """CUDA's functions by name."""
    return {
        name: value
        for name, value in vars(FakeCudaRuntime).items()
        if re.match("cuda[A-Z]", name) and callable(value) and not isinstance(value, type)
    }


def _status(error: EngineError) -> cudaError_t:
    if "out of memory" in str(error):
        return cudaError_t.cudaErrorMemoryAllocation
    return cudaError_t.cudaErrorInvalidResourceHandle


def _host(address: int, size: int) -> Any:
    buffer: Any = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(buffer, dtype=np.uint8)
