"""The GPU through NVIDIA's cuda-python (`cuda-bindings` 12 and 13): the runtime API, in the primary context."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import GPU, NO_DRIVER, Device, DeviceFacts
from hiif_deploy.errors import EngineError


class CudaPythonDevice(Device):
    """`Device` on the runtime API. EngineError where the package or a working driver is missing."""

    name, distribution, module = "cuda-python", "cuda-bindings", "cuda.bindings.runtime"
    install = "pip install cuda-bindings ('cuda-bindings<13' for a driver older than 580)"

    def __init__(self) -> None:
        super().__init__()
        try:
            self._call("cudaSetDevice", GPU)
        except EngineError as error:
            raise EngineError(f"{error}; {NO_DRIVER}") from error

    def facts(self) -> DeviceFacts:
        """See `Device`."""
        properties = self._call("cudaGetDeviceProperties", GPU)
        version = int(self._call("cudaDriverGetVersion"))
        return DeviceFacts(
            gpu=properties.name.decode("utf-8", "replace").rstrip("\0"),
            capability=f"{properties.major}.{properties.minor}",
            driver=f"{version // 1000}.{version % 1000 // 10}",
            memory=int(properties.totalGlobalMem),
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device`; the thread may have chosen another GPU, as PyTorch does for `cuda:1`, and gets it back."""
        before = int(self._call("cudaGetDevice"))
        self._call("cudaSetDevice", GPU)
        try:
            yield
        finally:
            self._call("cudaSetDevice", before)

    def allocate(self, size: int) -> int:
        """See `Device`."""
        return self._made("cudaMalloc", size, freed_by="cudaFree")

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Device`."""
        address = self._made("cudaMallocHost", size, freed_by="cudaFreeHost")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def upload(self, target: int, source: NDArray[Any], stream: int) -> None:
        """See `Device`."""
        kind = self._library.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, stream)

    def download(self, target: NDArray[Any], source: int, stream: int) -> None:
        """See `Device`."""
        kind = self._library.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, stream)

    def clear(self, target: int, size: int, stream: int) -> None:
        """See `Device`."""
        self._call("cudaMemsetAsync", target, 0, size, stream)

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: int
    ) -> None:
        """See `Device`."""
        kind = self._library.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        sides = target, target_pitch, source, source_pitch
        self._call("cudaMemcpy2DAsync", *sides, width, height, kind, stream)

    def stream(self) -> int:
        """See `Device`."""
        flags = self._library.cudaStreamNonBlocking
        return self._made("cudaStreamCreateWithFlags", flags, freed_by="cudaStreamDestroy")

    def event(self) -> int:
        """See `Device`; without timing, which would cost."""
        flags = self._library.cudaEventDisableTiming
        return self._made("cudaEventCreateWithFlags", flags, freed_by="cudaEventDestroy")

    def record(self, event: int, stream: int) -> None:
        """See `Device`."""
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """See `Device`."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: int) -> None:
        """See `Device`; EngineError also for errors of the work before it."""
        self._call("cudaEventSynchronize", event)

    def synchronize(self, stream: int | None = None) -> None:
        """See `Device`; EngineError also for errors of that work."""
        if stream is None:
            self._call("cudaDeviceSynchronize")
        else:
            self._call("cudaStreamSynchronize", stream)

    def _made(self, name: str, argument: Any, *, freed_by: str) -> int:
        """What a call makes, and another one frees, as an integer."""
        handle = int(self._call(name, argument))
        self._live[handle] = lambda: self._call(freed_by, handle)
        return handle

    def _call(self, name: str, *arguments: Any) -> Any:
        """The call's value; EngineError with CUDA's own words."""
        self._require_open()
        status, *values = getattr(self._library, name)(*arguments)
        if status != self._library.cudaError_t.cudaSuccess:
            said = self._library.cudaGetErrorName(status)[1], self._library.cudaGetErrorString(status)[1]
            raise EngineError(f"{self.layer}: {name} failed: {b': '.join(said).decode('utf-8', 'replace')}")
        return values[0] if values else None
