"""Work as CUDA graphs: a clip repeats the calls of a frame, so what was launched for one is replayed for the next.

The first call of a shape runs plainly, the second is recorded, those that follow are replayed. A recording knows
addresses, not tensors: what differs from call to call is copied into buffers of its own ahead of each replay, and maps,
which are too large for that, are part of what it is looked up by (design/gpu.md).
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from hiif_deploy.errors import EngineError
from hiif_engines.torch_graph.device import ALONE
from hiif_engines.torch_graph.interpreter import Compute, Feeds

logger = logging.getLogger(__name__)

Key = tuple[object, ...]
MOST = 64
"""Recordings kept: encoder, maps, two statistics passes and colours, each for whole tiles and for the last ones."""


@dataclass(frozen=True)
class Recording:
    """Work whose launches are known."""

    outputs: Feeds
    """Of the work, in the same memory every time; they hold its answer after the next replay, not before."""
    replay: Callable[[], None]
    """Queue the work again, on the same addresses."""


class Recorder(Protocol):
    """Protocol of what records work."""

    def record(self, work: Callable[[], dict[str, Tensor]]) -> Recording:
        """Record the work once."""
        ...


class CudaRecorder:
    """Records CUDA graphs. They share one block of memory, so outputs must be read before the next replay."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], dict[str, Tensor]]) -> Recording:
        """Warm up on a stream of its own, as PyTorch asks for, then capture there."""
        with ALONE, torch.cuda.device(self._device):
            current = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                work()
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads may go on queueing work meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    outputs = work()
            finally:
                # A capture that fails leaves its stream the current one.
                torch.cuda.set_stream(current)
        return Recording(outputs, graph.replay)


@dataclass
class CudaGraphCache:
    """Recordings of one backend. Not thread-safe: its caller queues under a lock."""

    recorder: Recorder
    """What records."""
    most: int = MOST
    """Recordings kept; the one used longest ago goes first."""
    _kept: OrderedDict[Key, _Recorded | None] = field(default_factory=OrderedDict)
    """None: seen once, not recorded yet."""
    _failed: bool = False

    def run(self, name: str, compute: Compute, fixed: Feeds, given: Feeds) -> dict[str, Tensor]:
        """Outputs of `compute`, in memory of their own. `given` is copied, `fixed` read and written where it lies."""
        key = name, *_places(fixed), *((part, value.shape, value.dtype) for part, value in given.items())
        recorded = self._kept.get(key)
        if recorded is None and key in self._kept:
            recorded = self._record(compute, fixed, given)
        if not self._failed:
            self._keep(key, recorded)
        return recorded(given) if recorded else compute({**fixed, **given})

    def clear(self) -> None:
        """Forget all recordings."""
        self._kept.clear()

    def _keep(self, key: Key, recorded: _Recorded | None) -> None:
        self._kept[key] = recorded
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def _record(self, compute: Compute, fixed: Feeds, given: Feeds) -> _Recorded | None:
        """None where it fails, which is reported once."""
        with torch.inference_mode():
            inputs = {name: value.clone(memory_format=torch.contiguous_format) for name, value in given.items()}
        feeds = {**fixed, **inputs}
        try:
            return _Recorded(inputs, self.recorder.record(lambda: compute(feeds)))
        except (RuntimeError, EngineError) as error:  # PyTorch's own are RuntimeErrors
            self._failed = True
            self.clear()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("no CUDA graphs (%s): operations are launched one by one (slower)", reason)
            return None


@dataclass
class _Recorded:
    """A recording and its buffers."""

    inputs: dict[str, Tensor]
    """Where the recorded work reads what differs from block to block."""
    recording: Recording
    """The work."""
    _held: dict[str, weakref.ref[Tensor]] = field(default_factory=dict)
    """What was last copied into each buffer: a picture's folded matrices are the same for all of its blocks."""

    def __call__(self, given: Feeds) -> dict[str, Tensor]:
        with torch.inference_mode():
            for name, value in given.items():
                held = self._held.get(name)
                if held is None or held() is not value:
                    self.inputs[name].copy_(value)
                    self._held[name] = weakref.ref(value)
            self.recording.replay()
            # The next replay overwrites them.
            return {name: value.clone() for name, value in self.recording.outputs.items()}


def _places(tensors: Feeds) -> list[Key]:
    """All that a recording knows of tensors that it reads where they lie."""
    return [(name, x.data_ptr(), x.shape, x.stride(), x.dtype) for name, x in tensors.items()]
