"""Stands in for the module `pycuda.driver`: what the layer uses of it, with the real parameters, over a `FakeDevice`.

As in pycuda, nothing works in a thread in which the context is not current, and a thread that ends with a context
would abort the process: `depth` tells.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fake_device import FakeDevice
from hiif_deploy.errors import EngineError


class Error(Exception):
    """`pycuda.driver.Error`."""


class FakePycuda:
    """A module. `calls` are the names of the calls in order."""

    Error = Error
    event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2)

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.calls: list[str] = []
        self.init_error = ""
        self._local = threading.local()
        self.Stream = lambda flags=0: FakeStream(self, flags)
        self.Event = lambda flags=0: FakePycudaEvent(self, flags)
        self.Device = lambda number: FakeGpu(self, number)
        self.Memcpy2D = lambda: FakeMemcpy2D(self)

    @property
    def depth(self) -> int:
        """How often the context was pushed in this thread and not popped."""
        return getattr(self._local, "depth", 0)

    def called(self, name: str) -> FakeDevice:
        """Note the call; the device behind."""
        if not self.depth:
            raise Error(f"{name} failed: invalid device context")
        self.calls.append(name)
        return self.device

    def init(self, flags: int = 0) -> None:
        assert flags == 0
        if self.init_error:
            raise Error(self.init_error)

    def get_driver_version(self) -> int:
        major, minor = (int(part) for part in self.device.facts().driver.split("."))
        return 1000 * major + 10 * minor

    def mem_alloc(self, bytes: int, /) -> FakeAllocation:  # noqa: A002 - as pycuda names it
        device = self.called("mem_alloc")
        try:
            return FakeAllocation(self, device.allocate(bytes))
        except EngineError:
            raise Error("cuMemAlloc failed: out of memory") from None

    def pagelocked_empty(self, shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> NDArray[Any]:
        assert (np.dtype(dtype), order, mem_flags) == (np.uint8, "C", 0)
        return np.asarray(FakePagelocked(self, self.called("pagelocked_empty").pinned(shape)))

    def memcpy_htod_async(self, dest: int, src: NDArray[Any], stream: FakeStream | None = None) -> None:
        assert stream is not None, "the default stream would wait for all others"
        self.called("memcpy_htod_async").upload(dest, src, stream.behind)

    def memcpy_dtoh_async(self, dest: NDArray[Any], src: int, stream: FakeStream | None = None) -> None:
        assert stream is not None, "the default stream would wait for all others"
        self.called("memcpy_dtoh_async").download(dest, src, stream.behind)

    def memset_d8_async(self, dest: int, data: int, size: int, stream: FakeStream | None = None) -> None:
        assert stream is not None, "the default stream would wait for all others"
        assert data == 0
        self.called("memset_d8_async").clear(dest, size, stream.behind)


class FakeGpu:
    """`pycuda.driver.Device`."""

    def __init__(self, module: FakePycuda, number: int) -> None:
        assert number == 0
        self._module = module

    def name(self) -> str:
        return self._module.device.facts().gpu

    def compute_capability(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self._module.device.facts().capability.split("."))

    def total_memory(self) -> int:
        return self._module.device.facts().memory

    def retain_primary_context(self) -> FakeContext:
        return FakeContext(self._module)


class FakeContext:
    """`pycuda.driver.Context`."""

    def __init__(self, module: FakePycuda) -> None:
        self._module = module

    def push(self) -> None:
        self._module._local.depth = self._module.depth + 1

    def pop(self) -> None:
        assert self._module.depth > 0
        self._module._local.depth -= 1

    def synchronize(self) -> None:
        self._module.called("Context.synchronize").synchronize()

    def detach(self) -> None:
        """At exit."""


class FakeAllocation:
    """`pycuda.driver.DeviceAllocation`."""

    def __init__(self, module: FakePycuda, address: int) -> None:
        self._module = module
        self._address = address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._module.called("DeviceAllocation.free").free(self._address)


class FakePagelocked:
    """`pycuda.driver.PagelockedHostAllocation`: the `base` of the array."""

    def __init__(self, module: FakePycuda, block: NDArray[np.uint8]) -> None:
        self._module = module
        self._block = block
        self.__array_interface__ = block.__array_interface__

    def free(self) -> None:
        self._module.called("PagelockedHostAllocation.free").free(self._block.ctypes.data)


class FakeStream:
    """`pycuda.driver.Stream`: destroyed with its last reference."""

    def __init__(self, module: FakePycuda, flags: int) -> None:
        assert flags == 1, "CU_STREAM_NON_BLOCKING"
        self._module = module
        self.behind = module.called("Stream").stream()
        self.handle = self.behind

    def __del__(self) -> None:
        self._module.called("cuStreamDestroy").free(self.behind)

    def synchronize(self) -> None:
        self._module.called("Stream.synchronize").synchronize(self.behind)

    def wait_for_event(self, event: FakePycudaEvent) -> None:
        self._module.called("Stream.wait_for_event").wait(self.behind, event.behind)


class FakePycudaEvent:
    """`pycuda.driver.Event`: destroyed with its last reference."""

    def __init__(self, module: FakePycuda, flags: int) -> None:
        assert flags == 2, "CU_EVENT_DISABLE_TIMING"
        self._module = module
        self.behind = module.called("Event").event()

    def __del__(self) -> None:
        self._module.called("cuEventDestroy").free(self.behind)

    def record(self, stream: FakeStream | None = None) -> FakePycudaEvent:
        assert stream is not None, "the default stream would wait for all others"
        self._module.called("Event.record").record(self.behind, stream.behind)
        return self

    def synchronize(self) -> FakePycudaEvent:
        self._module.called("Event.synchronize").synchronize_event(self.behind)
        return self


class FakeMemcpy2D:
    """`pycuda.driver.Memcpy2D`."""

    __slots__ = ("_dst", "_module", "_src", "dst_pitch", "height", "src_pitch", "width_in_bytes")

    def __init__(self, module: FakePycuda) -> None:
        self._module = module
        self._src = self._dst = self.src_pitch = self.dst_pitch = self.width_in_bytes = self.height = 0

    def set_src_device(self, devptr: int) -> None:
        self._src = devptr

    def set_dst_device(self, devptr: int) -> None:
        self._dst = devptr

    def __call__(self, stream: FakeStream) -> None:
        sides = self._dst, self.dst_pitch, self._src, self.src_pitch
        device = self._module.called("Memcpy2D")
        device.copy_rows(*sides, self.width_in_bytes, self.height, stream.behind)
