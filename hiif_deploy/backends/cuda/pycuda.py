"""The GPU through pycuda: the driver API, in the primary context.

pycuda ties its objects to a context that is current in the calling thread, and aborts the process when a thread ends
with one. So each call makes the context current for its own duration only (`pycuda.autoprimaryctx` would leave it
with the thread that imports it first).
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
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
"""The first that CUDA shows."""
NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, which pycuda does not name."""


class Held:
    """Keeps one of pycuda's objects, which are destroyed with their last reference, till it is let go on purpose."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def live(self) -> Any:
        """The object; EngineError once it was let go."""
        if self._value is None:
            raise EngineError("pycuda: a stream or an event is used after it was freed")
        return self._value

    def drop(self) -> None:
        """Forget the handle without freeing it."""
        self._value = None


class PycudaDevice:
    """`Device` on the driver API. EngineError where the package or a working driver is missing."""

    def __init__(self) -> None:
        self.layer = f"pycuda {installed_version('pycuda') or ''}".strip()
        self._driver, self._context = primary_context()
        self._closed = False
        self._handles = Handles(self.layer)

    def facts(self) -> DeviceFacts:
        """EngineError where the driver does not tell."""
        with self._current("asking for the GPU's properties"):
            gpu = self._driver.Device(GPU)
            version = int(self._driver.get_driver_version())
            return DeviceFacts(
                gpu=gpu.name(),
                capability=".".join(str(part) for part in gpu.compute_capability()),
                driver=f"{version // 1000}.{version % 1000 // 10}",
                memory=int(gpu.total_memory()),
            )

    def current(self) -> AbstractContextManager[None]:
        """See `Device`; pushes the primary context and pops it."""
        return self._current("running an engine")

    def allocate(self, size: int) -> int:
        """See `Device`; calls `mem_alloc`."""
        require_size(self.layer, size)
        with self._current(f"allocating {size:,} bytes"):
            try:
                memory = self._driver.mem_alloc(size)
            except self._driver.MemoryError as error:
                raise out_of_memory(self.layer, size, *self._driver.mem_get_info()) from error
        self._handles.add("memory", int(memory), lambda: self._free("freeing GPU memory", memory.free))
        return int(memory)

    def free(self, address: int) -> None:
        """Free the memory; waits for the GPU first."""
        self._handles.release("memory", address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Device`; calls `pagelocked_empty`."""
        require_size(self.layer, size)
        with self._current(f"page-locking {size:,} bytes of host memory"):
            block: NDArray[np.uint8] = self._driver.pagelocked_empty(size, np.uint8)
        free = block.base.free  # type: ignore[union-attr]  # pycuda's PagelockedHostAllocation
        self._handles.add("pinned", block.ctypes.data, lambda: self._free("freeing page-locked memory", free))
        return block

    def free_pinned(self, block: NDArray[np.uint8]) -> None:
        """The array and its views are invalid afterwards."""
        self._handles.release("pinned", block.ctypes.data)

    def upload(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """See `Device`; calls `memcpy_htod_async`."""
        host = host_bytes(self.layer, source, writable=False)
        with self._current(f"uploading {source.nbytes:,} bytes"):
            self._driver.memcpy_htod_async(target, host, stream.native.live())

    def download(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """See `Device`; calls `memcpy_dtoh_async`."""
        host = host_bytes(self.layer, target, writable=True)
        with self._current(f"downloading {target.nbytes:,} bytes"):
            self._driver.memcpy_dtoh_async(host, source, stream.native.live())

    def clear(self, target: int, size: int, stream: Stream) -> None:
        """See `Device`; calls `memset_d8_async`."""
        with self._current(f"clearing {size:,} bytes"):
            self._driver.memset_d8_async(target, 0, size, stream.native.live())

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: Stream
    ) -> None:
        """See `Device`; calls `Memcpy2D`."""
        require_rows(self.layer, width, target_pitch, source_pitch)
        with self._current(f"copying {height} rows of {width} bytes"):
            copy = self._driver.Memcpy2D()
            copy.set_src_device(source)
            copy.set_dst_device(target)
            copy.src_pitch, copy.dst_pitch = source_pitch, target_pitch
            copy.width_in_bytes, copy.height = width, height
            copy(stream.native.live())

    def stream(self) -> Stream:
        """Non-blocking with respect to the default stream."""
        with self._current("making a stream"):
            native = self._driver.Stream(NON_BLOCKING)
            stream = Stream(int(native.handle), Held(native))
        self._handles.add("stream", stream.handle, lambda: self._drop("destroying a stream", stream.native))
        return stream

    def free_stream(self, stream: Stream) -> None:
        """Work that is queued is still done."""
        self._handles.release("stream", stream.handle)

    def event(self) -> Held:
        """Without timing, which would cost."""
        with self._current("making an event"):
            event = Held(self._driver.Event(self._driver.event_flags.DISABLE_TIMING))
        self._handles.add("event", id(event), lambda: self._drop("destroying an event", event))
        return event

    def free_event(self, event: Held) -> None:
        """Waits that are queued already are not affected."""
        self._handles.release("event", id(event))

    def record(self, event: Held, stream: Stream) -> None:
        """See `Device`; calls `Event.record`."""
        with self._current("recording an event"):
            event.live().record(stream.native.live())

    def wait(self, stream: Stream, event: Held) -> None:
        """See `Device`; calls `Stream.wait_for_event`."""
        with self._current("waiting for an event"):
            stream.native.live().wait_for_event(event.live())

    def synchronize_event(self, event: Held) -> None:
        """EngineError also for errors of the work before it."""
        with self._current("synchronising an event"):
            event.live().synchronize()

    def synchronize(self, stream: Stream) -> None:
        """EngineError also for errors of the stream's work."""
        with self._current("synchronising a stream"):
            stream.native.live().synchronize()

    def close(self) -> None:
        """The primary context stays, as others may use it."""
        if self._closed:
            return
        try:
            with self._current("synchronising the GPU"):
                self._context.synchronize()
        finally:
            try:
                self._handles.release_all()
            finally:
                self._closed = True

    def _free(self, doing: str, free: Callable[[], None]) -> None:
        with self._current(doing):
            free()

    def _drop(self, doing: str, held: Held) -> None:
        with self._current(doing):
            held.drop()

    @contextmanager
    def _current(self, doing: str) -> Iterator[None]:
        """The context is current inside; pycuda's errors become EngineError."""
        if self._closed:
            raise EngineError(f"{self.layer} is closed: {doing}")
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except self._driver.Error as error:
            raise EngineError(f"{self.layer}: {doing} failed: {error}") from error


@cache
def primary_context() -> tuple[Any, Any]:
    """The module `pycuda.driver` and the GPU's primary context, kept for good; EngineError says what to install."""
    try:
        driver = import_module("pycuda.driver")
    except ImportError as error:
        raise EngineError(f"pycuda cannot be imported ({error}); {_remedy(error)}") from error
    try:
        driver.init()
        context = driver.Device(GPU).retain_primary_context()
    except driver.Error as error:
        raise EngineError(
            f"pycuda: CUDA does not start: {error}; check that nvidia-smi lists a GPU, "
            "and install or update the NVIDIA driver"
        ) from error
    # Left to its destructor, pycuda would treat it as a context of its own making and complain.
    atexit.register(context.detach)
    return driver, context


def _remedy(error: ImportError) -> str:
    if "libcuda" in str(error):
        return "install the NVIDIA driver, which brings libcuda.so.1"
    return f"add it with: {INSTALL['pycuda']}"
