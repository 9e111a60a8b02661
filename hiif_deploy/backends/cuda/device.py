"""The few things that a GPU must do for TensorRT: memory, copies, streams and events.

Addresses, streams and events are plain integers, as TensorRT takes them. Nothing here synchronises unless its name says
so: work is queued on a stream and done later, in that stream's order; events order the streams among each other.
The GPU is the first that CUDA shows (CUDA_VISIBLE_DEVICES chooses another), in its primary context, which PyTorch,
ONNX Runtime and TensorRT use too. Any thread may call; one stream is used by one thread at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import EngineError
from hiif_deploy.support.extras import installed_version

GPU = 0
"""The first that CUDA shows; a thread that never chose one has it too."""
NO_DRIVER = "check that nvidia-smi lists a GPU, and install or update the NVIDIA driver"


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


class Device(ABC):
    """One GPU through one Python layer. EngineError for all that CUDA refuses.

    What it hands out is given back by `free`, or by `close`. Any call after `close` is an EngineError.
    """

    name: ClassVar[str]
    """What `open_device` calls the layer."""
    distribution: ClassVar[str]
    """What brings the layer's package."""
    module: ClassVar[str]
    """The module of that package which is used."""
    install: ClassVar[str]
    """What adds the package."""

    def __init__(self) -> None:
        """Import the package; EngineError says what to install."""
        self.layer = f"{self.name} {installed_version(self.distribution) or ''}".strip()
        """Name and version of the Python layer, for `doctor` and reports."""
        self._live: dict[int, Callable[[], object]] = {}
        """Address, stream or event → what gives it back."""
        self._closed = False
        try:
            self._library: Any = import_module(self.module)
        except ImportError as error:
            raise EngineError(f"{self.name} cannot be imported ({error}); add it with: {self.install}") from error

    @abstractmethod
    def facts(self) -> DeviceFacts:
        """Name, capability, memory and driver of this GPU."""

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Inside, this GPU is the calling thread's current one, for libraries that launch work themselves; may nest."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """Address of `size` > 0 fresh bytes, aligned to 256 at least."""

    @abstractmethod
    def pinned(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes of page-locked host memory, which copies can overlap with work."""

    def free(self, address: int) -> None:
        """Give back what `allocate` or `pinned` gave; waits for the GPU. Views of pinned memory are invalid then."""
        self._live.pop(address)()

    @abstractmethod
    def upload(self, target: int, source: NDArray[Any], stream: int) -> None:
        """Queue a copy of a C-contiguous host array, which must stay alive and unchanged until the stream passed it."""

    @abstractmethod
    def download(self, target: NDArray[Any], source: int, stream: int) -> None:
        """Queue a copy into a C-contiguous host array, kept alive till then; valid once the stream has passed it."""

    @abstractmethod
    def clear(self, target: int, size: int, stream: int) -> None:
        """Queue filling with zero bytes."""

    @abstractmethod
    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int, stream: int
    ) -> None:
        """Queue a copy within the GPU: `height` rows of `width` ≤ pitch bytes, each side's rows `pitch` bytes apart."""

    @abstractmethod
    def stream(self) -> int:
        """A new stream that does not wait for the default one."""

    @abstractmethod
    def event(self) -> int:
        """A new event; waiting for one that was never recorded waits for nothing."""

    @abstractmethod
    def record(self, event: int, stream: int) -> None:
        """Queue: the event has come once the stream passes here. Recording again replaces the earlier place."""

    @abstractmethod
    def wait(self, stream: int, event: int) -> None:
        """Queue: the stream goes on once the event, as last recorded, has come."""

    @abstractmethod
    def synchronize_event(self, event: int) -> None:
        """Return once the event, as last recorded, has come."""

    @abstractmethod
    def synchronize(self, stream: int | None = None) -> None:
        """Return once all work queued on the stream, or on all of them, is done."""

    def close(self) -> None:
        """Give everything back, once all work is done; the primary context stays, as others may use it. The first error
        is raised once all was tried. Closing twice does nothing."""
        if self._closed:
            return
        errors = []
        for release in (self.synchronize, *reversed(self._live.values())):
            try:
                release()
            except EngineError as error:
                errors.append(error)
        self._live.clear()
        self._closed = True
        if errors:
            raise errors[0]

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError(f"{self.layer} is closed")
