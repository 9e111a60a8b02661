"""The few things that a GPU must do for TensorRT: memory, copies, streams and events.

Addresses are plain integers, as TensorRT takes them. Nothing here synchronises unless its name says so: work is
queued on a stream and done later, in that stream's order; events order the streams among each other.
The GPU is the first that CUDA shows (CUDA_VISIBLE_DEVICES chooses another), in its primary context, which PyTorch,
ONNX Runtime and TensorRT use too. Any thread may call; one stream is used by one thread at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import EngineError


@dataclass(frozen=True)
class DeviceFacts:
    """Facts about the GPU that an engine depends on."""

    gpu: str
    """Name as the driver tells it."""
    capability: str
    """Compute capability, such as `8.9`."""
    driver: str
    """CUDA version of the driver, such as `13.0`."""
    memory: int
    """Bytes of GPU memory in all."""


@dataclass(frozen=True)
class Stream:
    """A queue of work on the GPU."""

    handle: int
    """What TensorRT's `execute_async_v3` takes."""
    native: Any
    """The layer's own object."""


class Device(Protocol):
    """One GPU through one Python layer. Everything it hands out is freed by the matching `free…`, or by `close`."""

    layer: str
    """Name and version of the Python layer, for `doctor` and reports."""

    def facts(self) -> DeviceFacts:
        """Name, capability, memory and driver of this GPU."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Inside, this GPU is the calling thread's current one, for libraries that launch work themselves; may nest."""
        ...

    def allocate(self, size: int) -> int:
        """Address of `size` > 0 fresh bytes, aligned to 256 at least. EngineError where memory is short."""
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        ...

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes of page-locked host memory, which copies can overlap with work."""
        ...

    def free_pinned(self, block: NDArray[np.uint8]) -> None:
        """Give back what `pinned` gave."""
        ...

    def upload(self, target: int, source: NDArray[Any], stream: Stream) -> None:
        """Queue a copy of a C-contiguous host array, which must stay alive and unchanged until the stream passed it."""
        ...

    def download(self, target: NDArray[Any], source: int, stream: Stream) -> None:
        """Queue a copy into a C-contiguous host array, kept alive till then; valid once the stream has passed it."""
        ...

    def clear(self, target: int, size: int, stream: Stream) -> None:
        """Queue filling with zero bytes."""
        ...

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: Stream
    ) -> None:
        """Queue a copy within the GPU: `height` rows of `width` ≤ pitch bytes, each side's rows `pitch` bytes apart."""
        ...

    def stream(self) -> Stream:
        """A new stream that does not wait for the default one."""
        ...

    def free_stream(self, stream: Stream) -> None:
        """Give back what `stream` gave."""
        ...

    def event(self) -> Any:
        """A new event; waiting for one that was never recorded waits for nothing."""
        ...

    def free_event(self, event: Any) -> None:
        """Give back what `event` gave."""
        ...

    def record(self, event: Any, stream: Stream) -> None:
        """Queue: the event has come once the stream passes here. Recording again replaces the earlier place."""
        ...

    def wait(self, stream: Stream, event: Any) -> None:
        """Queue: the stream goes on once the event, as last recorded, has come."""
        ...

    def synchronize_event(self, event: Any) -> None:
        """Return once the event, as last recorded, has come."""
        ...

    def synchronize(self, stream: Stream) -> None:
        """Return once all work queued on the stream is done."""
        ...

    def close(self) -> None:
        """Give back everything, once all work is done. Closing twice is nothing; any other call is an EngineError."""
        ...


INSTALL = {
    "cuda-python": "pip install cuda-bindings ('cuda-bindings<13' for a driver older than 580)",
    "pycuda": "pip install pycuda (it compiles: it needs a C++ compiler, the CUDA toolkit and the NVIDIA driver)",
}
"""What adds a layer."""


class Handles:
    """Registry of what a layer has handed out, so that nothing is freed twice or forgotten."""

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self._live: dict[tuple[str, int], Callable[[], None]] = {}

    def add(self, kind: str, key: int, release: Callable[[], None]) -> None:
        """`release` gives back the thing of that kind and key."""
        self._live[kind, key] = release

    def require(self, kind: str, key: int) -> None:
        """EngineError where no such thing is handed out."""
        if (kind, key) not in self._live:
            raise EngineError(f"{self._layer}: {kind} {key:#x} is not in use: freed before, or from another device")

    def release(self, kind: str, key: int) -> None:
        """Give one thing back; EngineError where it is not handed out."""
        self.require(kind, key)
        self._live.pop((kind, key))()

    def release_all(self) -> None:
        """Give everything back, newest first; the first error is raised once all was tried."""
        errors = []
        while self._live:
            try:
                self._live.popitem()[1]()
            except EngineError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def count(self) -> Counter[str]:
        """How many of each kind are handed out."""
        return Counter(kind for kind, _ in self._live)


def out_of_memory(layer: str, size: int, free: int, total: int) -> EngineError:
    """Error that `allocate` raises where GPU memory is short; all arguments in bytes."""
    return EngineError(
        f"{layer}: GPU memory is short: {size:,} bytes were requested, {free:,} of {total:,} are free; "
        "take a smaller --memory or a smaller query block, or end other programs on this GPU"
    )


def host_bytes(layer: str, array: NDArray[Any], *, writable: bool) -> NDArray[Any]:
    """`array`, if a copy to or from it is one run of bytes; EngineError otherwise."""
    if not array.flags.c_contiguous or (writable and not array.flags.writeable):
        kind = "read-only" if array.flags.c_contiguous else "not C-contiguous"
        raise EngineError(f"{layer}: a host array {array.shape} {array.dtype} is {kind}: copy it first")
    return array


def require_size(layer: str, size: int) -> None:
    """EngineError where `size` is no number of bytes to allocate."""
    if size < 1:
        raise EngineError(f"{layer}: {size} bytes cannot be allocated: expected 1 or more")


def require_rows(layer: str, width: int, *pitches: int) -> None:
    """EngineError where rows would overlap."""
    if width > min(pitches):
        raise EngineError(f"{layer}: rows of {width} bytes do not fit pitches of {pitches} bytes")
