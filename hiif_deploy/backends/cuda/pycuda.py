"""The GPU through pycuda: the driver API, in the primary context.

pycuda ties its objects to a context that is current in the calling thread, and aborts the process when a thread ends
with one. So each call makes the context current for its own duration only (`pycuda.autoprimaryctx` would leave it
with the thread that imports it first), and streams and events, which pycuda destroys with their last reference, are
referred to nowhere else.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.device import GPU, NO_DRIVER, Device, DeviceFacts
from hiif_deploy.errors import EngineError

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, which pycuda does not name."""


class PycudaDevice(Device):
    """`Device` on the driver API. EngineError where the package or a working driver is missing."""

    name, distribution, module = "pycuda", "pycuda", "pycuda.driver"
    install = "pip install pycuda (it compiles: it needs a C++ compiler, the CUDA toolkit and the NVIDIA driver)"

    def __init__(self) -> None:
        super().__init__()
        self._context = primary_context(self._library)
        self._objects: dict[int, Any] = {}
        """pycuda's streams and events by what stands for them."""

    def facts(self) -> DeviceFacts:
        """See `Device`."""
        with self.current():
            gpu = self._library.Device(GPU)
            version = int(self._library.get_driver_version())
            return DeviceFacts(
                gpu=gpu.name(),
                capability=".".join(str(part) for part in gpu.compute_capability()),
                driver=f"{version // 1000}.{version % 1000 // 10}",
                memory=int(gpu.total_memory()),
            )

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Device`; pycuda's errors become EngineError."""
        self._require_open()
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except self._library.Error as error:
            raise EngineError(f"{self.layer}: {error}") from error

    def allocate(self, size: int) -> int:
        """See `Device`."""
        memory = self._call(self._library.mem_alloc, size)
        return self._kept(int(memory), memory.free)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See `Device`."""
        block: NDArray[np.uint8] = self._call(self._library.pagelocked_empty, size, np.uint8)
        self._kept(block.ctypes.data, block.base.free)  # type: ignore[union-attr]  # PagelockedHostAllocation
        return block

    def upload(self, target: int, source: NDArray[Any], stream: int) -> None:
        """See `Device`."""
        self._call(self._library.memcpy_htod_async, target, source, self._object(stream))

    def download(self, target: NDArray[Any], source: int, stream: int) -> None:
        """See `Device`."""
        self._call(self._library.memcpy_dtoh_async, target, source, self._object(stream))

    def clear(self, target: int, size: int, stream: int) -> None:
        """See `Device`."""
        self._call(self._library.memset_d8_async, target, 0, size, self._object(stream))

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: int
    ) -> None:
        """See `Device`."""
        copy = self._library.Memcpy2D()
        copy.set_src_device(source)
        copy.set_dst_device(target)
        copy.src_pitch, copy.dst_pitch = source_pitch, target_pitch
        copy.width_in_bytes, copy.height = width, height
        self._call(copy, self._object(stream))

    def stream(self) -> int:
        """See `Device`."""
        stream = self._call(self._library.Stream, NON_BLOCKING)
        return self._kept_object(int(stream.handle), stream)

    def event(self) -> int:
        """See `Device`; without timing, which would cost."""
        event = self._call(self._library.Event, self._library.event_flags.DISABLE_TIMING)
        return self._kept_object(id(event), event)

    def record(self, event: int, stream: int) -> None:
        """See `Device`."""
        self._call(self._object(event).record, self._object(stream))

    def wait(self, stream: int, event: int) -> None:
        """See `Device`."""
        self._call(self._object(stream).wait_for_event, self._object(event))

    def synchronize_event(self, event: int) -> None:
        """See `Device`; EngineError also for errors of the work before it."""
        self._call(self._object(event).synchronize)

    def synchronize(self, stream: int | None = None) -> None:
        """See `Device`; EngineError also for errors of that work."""
        self._call((self._context if stream is None else self._object(stream)).synchronize)

    def _kept(self, key: int, free: Callable[[], object]) -> int:
        self._live[key] = lambda: self._call(free)
        return key

    def _kept_object(self, key: int, value: Any) -> int:
        self._objects[key] = value
        return self._kept(key, partial(self._objects.__delitem__, key))

    def _object(self, key: int) -> Any:
        self._require_open()
        return self._objects[key]

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The call's value; the context is current meanwhile."""
        with self.current():
            return function(*arguments)


@cache
def primary_context(driver: Any) -> Any:
    """The GPU's primary context, kept for good; EngineError where there is none."""
    try:
        driver.init()
        context = driver.Device(GPU).retain_primary_context()
    except driver.Error as error:
        raise EngineError(f"pycuda: CUDA does not start: {error}; {NO_DRIVER}") from error
    # Left to its destructor, pycuda would treat it as a context of its own making and complain.
    atexit.register(context.detach)
    return context
