"""The GPU through NVIDIA's cuda-python (`cuda-bindings` 12 and 13): the runtime API, in the primary context."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import (
    INSTALL,
    DeviceFacts,
    Handles,
    Stream,
    host_bytes,
    out_of_memory,
    require_rows,
    require_size,
)
from hiif_deploy.errors import EngineError
from hiif_deploy.support.extras import installed_version

GPU = 0
"""The first that CUDA shows; a thread that never chose one has it too."""


class CudaPythonDevice:
    """`Device` on the runtime API. EngineError where the package or a working driver is missing."""

    def __init__(self) -> None:
        self.layer = f"cuda-python {installed_version('cuda-bindings') or ''}".strip()
        self._cuda = import_runtime()
        self._closed = False
        self._handles = Handles(self.layer)
        self._begin()

    def facts(self) -> DeviceFacts:
        """EngineError where the driver does not tell."""
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
        """See `Device`; calls `cudaMalloc`."""
        require_size(self.layer, size)
        address = int(self._allocate("cudaMalloc", size, self._short_of_memory))
        self._handles.add("memory", address, lambda: self._call("cudaFree", address))
        return address

    def free(self, address: int) -> None:
        """`cudaFree` waits for the GPU."""
        self._handles.release("memory", address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Device`; calls `cudaMallocHost`."""
        require_size(self.layer, size)
        address = int(self._allocate("cudaMallocHost", size, self._short_of_host_memory))
        self._handles.add("pinned", address, lambda: self._call("cudaFreeHost", address))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, block: NDArray[np.uint8]) -> None:
        """The array and its views are invalid afterwards."""
        self._handles.release("pinned", block.ctypes.data)

    def upload(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """See `Device`; calls `cudaMemcpyAsync`."""
        address = host_bytes(self.layer, source, writable=False).ctypes.data
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, address, source.nbytes, kind, stream.native)

    def download(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """See `Device`; calls `cudaMemcpyAsync`."""
        address = host_bytes(self.layer, target, writable=True).ctypes.data
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", address, source, target.nbytes, kind, stream.native)

    def clear(self, target: int, size: int, stream: Stream) -> None:
        """See `Device`; calls `cudaMemsetAsync`."""
        self._call("cudaMemsetAsync", target, 0, size, stream.native)

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: Stream
    ) -> None:
        """See `Device`; calls `cudaMemcpy2DAsync`."""
        require_rows(self.layer, width, target_pitch, source_pitch)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        sides = target, target_pitch, source, source_pitch
        self._call("cudaMemcpy2DAsync", *sides, width, height, kind, stream.native)

    def stream(self) -> Stream:
        """Non-blocking with respect to the default stream."""
        native = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        self._handles.add("stream", int(native), lambda: self._call("cudaStreamDestroy", native))
        return Stream(int(native), native)

    def free_stream(self, stream: Stream) -> None:
        """Work that is queued is still done."""
        self._handles.release("stream", stream.handle)

    def event(self) -> Any:
        """Without timing, which would cost."""
        event = self._call("cudaEventCreateWithFlags", self._cuda.cudaEventDisableTiming)
        self._handles.add("event", int(event), lambda: self._call("cudaEventDestroy", event))
        return event

    def free_event(self, event: Any) -> None:
        """Waits that are queued already are not affected."""
        self._handles.release("event", int(event))

    def record(self, event: Any, stream: Stream) -> None:
        """See `Device`; calls `cudaEventRecord`."""
        self._call("cudaEventRecord", event, stream.native)

    def wait(self, stream: Stream, event: Any) -> None:
        """See `Device`; calls `cudaStreamWaitEvent`."""
        self._call("cudaStreamWaitEvent", stream.native, event, 0)

    def synchronize_event(self, event: Any) -> None:
        """EngineError also for errors of the work before it."""
        self._call("cudaEventSynchronize", event)

    def synchronize(self, stream: Stream) -> None:
        """EngineError also for errors of the stream's work."""
        self._call("cudaStreamSynchronize", stream.native)

    def close(self) -> None:
        """The primary context stays, as others may use it."""
        if self._closed:
            return
        try:
            self._call("cudaDeviceSynchronize")
        finally:
            try:
                self._handles.release_all()
            finally:
                self._closed = True

    def _begin(self) -> None:
        """Create the primary context, or say why there is none."""
        try:
            self._call("cudaSetDevice", GPU)
            # Up to CUDA 11 the context came only with the first real call.
            self._call("cudaFree", 0)
        except EngineError as error:
            raise EngineError(
                f"{error}; check that nvidia-smi lists a GPU, and install or update the NVIDIA driver"
            ) from error

    def _call(self, name: str, *arguments: Any) -> Any:
        """The call's value, a list where it has several; EngineError with CUDA's own words."""
        status, *values = self._try(name, *arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"{self.layer}: {name} failed: {self._words(status)}")
        return values[0] if len(values) == 1 else values

    def _try(self, name: str, *arguments: Any) -> Any:
        """Values that the CUDA call returns behind its status."""
        if self._closed:
            raise EngineError(f"{self.layer} is closed: {name}")
        return getattr(self._cuda, name)(*arguments)

    def _words(self, status: Any) -> str:
        answers = self._cuda.cudaGetErrorName(status), self._cuda.cudaGetErrorString(status)
        return ": ".join(words.decode("utf-8", "replace") for _, words in answers)

    def _allocate(self, name: str, size: int, short: Callable[[int], EngineError]) -> Any:
        """`_call` that reports a lack of memory in bytes."""
        status, address = self._try(name, size)
        if status == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise short(size)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"{self.layer}: {name} of {size:,} bytes failed: {self._words(status)}")
        return address

    def _short_of_memory(self, size: int) -> EngineError:
        free, total = self._call("cudaMemGetInfo")
        return out_of_memory(self.layer, size, free, total)

    def _short_of_host_memory(self, size: int) -> EngineError:
        return EngineError(
            f"{self.layer}: {size:,} bytes of page-locked host memory are not to be had; free some memory"
        )


def import_runtime() -> Any:
    """The module `cuda.bindings.runtime`; EngineError says what to install."""
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise EngineError(f"cuda-python cannot be imported ({error}); add it with: {INSTALL['cuda-python']}") from error
