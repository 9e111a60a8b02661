"""Queues work on a PyTorch device: one call at a time, plainly or as a recorded CUDA graph."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiif_deploy.decoding.session import Tensors
from hiif_engines.torch_engine.cuda_graphs import CudaGraphCache, Recorder
from hiif_engines.torch_graph.device import computing_on
from hiif_engines.torch_graph.interpreter import Compute, Feeds

TABLE_BYTES = 64 << 20
"""Tables kept on the device, unless one set is larger: every frame of a clip has those of the frame before it."""


class Launcher:
    """What is queued on one device. Thread-safe."""

    def __init__(self, device: torch.device, recorder: Recorder | None) -> None:
        """`recorder` of CUDA graphs, or None: every operation is launched by itself."""
        self.device = device
        self._graphs = CudaGraphCache(recorder) if recorder else None
        self._tables: OrderedDict[Hashable, dict[str, Tensor]] = OrderedDict()
        self._shape: Hashable = None
        self._lock = threading.Lock()

    @property
    def records(self) -> bool:
        """Whether work is recorded, whose memory then stays in use."""
        return self._graphs is not None

    def run(self, name: str, compute: Compute, fixed: Feeds, given: Feeds) -> dict[str, Tensor]:
        """Queue `compute` on {**fixed, **given}; return its outputs, in memory of their own.

        `name`, the addresses in `fixed` and the shapes in `given` say what may be replayed.
        """
        with self._lock, computing_on(self.device):
            if self._graphs is None:
                return compute({**fixed, **given})
            return self._graphs.run(name, compute, fixed, given)

    def upload(self, host: Tensors) -> dict[str, Tensor]:
        """Copy arrays to the device."""
        return {name: upload(value, self.device) for name, value in host.items()}

    def tables(self, key: Hashable, make: Callable[[], Tensors]) -> dict[str, Tensor]:
        """Return what was uploaded for `key`, or upload what `make` returns."""
        with self._lock:
            if key not in self._tables:
                self._tables[key] = self.upload(make())
                while len(self._tables) > 1 and self._table_bytes() > TABLE_BYTES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(key)
            return self._tables[key]

    def expect(self, shape: Hashable) -> None:
        """Let go of what was recorded for frames of another shape, whose memory would stay in use."""
        with self._lock:
            if self._graphs is not None and shape != self._shape:
                self._graphs.clear()
            self._shape = shape

    def _table_bytes(self) -> int:
        return sum(table.nbytes for tables in self._tables.values() for table in tables.values())

    def close(self) -> None:
        """Let go of recorded work and tables."""
        self._tables.clear()
        if self._graphs is not None:
            self._graphs.clear()


def upload(value: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to the device as it is; uint16 becomes int32 there, because PyTorch has few operations on it."""
    with computing_on(device):
        found = torch.from_numpy(np.require(value, requirements=["C", "W"])).to(device, copy=True)
        return found.to(torch.int32) if found.dtype == torch.uint16 else found


class Download:
    """Copies that run beside what is queued later."""

    def __init__(self, *tensors: Tensor) -> None:
        # From a GPU they go to pinned memory and arrive later.
        self._host = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._done: torch.cuda.Event | None = None
        if tensors[0].device.type == "cuda":
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[NDArray[Any]]:
        """The arrays, once they are there."""
        if self._done is not None:
            self._done.synchronize()
        return [tensor.numpy() for tensor in self._host]
