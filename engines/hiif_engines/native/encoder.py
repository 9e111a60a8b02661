"""Encoders of 3×3 and 1×1 convolutions, such as EDSR, RDN and SPAN, in native code."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.decoding.worker_pool import WorkerPool
from hiif_deploy.errors import EngineError
from hiif_deploy.geometry.sizes import Size, padded_size
from hiif_engines.native.compile import Argument, Call, Compiled, address
from hiif_engines.native.crew import Crew
from hiif_engines.native.emit import WORD
from hiif_engines.native.encoder_graph import PlaneLayer
from hiif_engines.native.target import Target
from hiif_engines.native.winograd import OUT, emit_convolutions, packed, transformed

Array = NDArray[np.float32]


class NativeEncoder:
    """An encoder as a session. `run` may be called from several threads, each call with its own planes."""

    def __init__(
        self, graph: GraphContract, layers: Sequence[PlaneLayer], threads: int, target: Target, crew: Crew
    ) -> None:
        """`crew` shares its calls, with threads of its own and others."""
        self.graph = graph
        self._layers, self._helpers, self._target, self._crew = list(layers), threads - 1, target, crew
        kinds = [layer.kind(target) for layer in layers]
        known = list(dict.fromkeys(kinds))
        code = Compiled(lambda: emit_convolutions(target, known), target, known)
        functions = {kind: code.function(f"convolution_{n}") for n, kind in enumerate(known)}
        self._steps = [NativeStep(target, layer, functions[kind]) for layer, kind in zip(layers, kinds, strict=True)]
        # Its threads begin with the first picture.
        self._pool = WorkerPool(threads, thread_name_prefix="hiif-encode")

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Picture `image` [1, C, h, w] → features [1, O, h, w] float32, whose channels are contiguous."""
        (source,), (result,) = self.graph.inputs, self.graph.outputs
        picture = np.asarray(feeds[source.name], np.float32)[0]
        size = (picture.shape[1], picture.shape[2])
        if len(picture) != (expected := self._layers[0].parts[0].weights.shape[1]):
            raise EngineError(f"graph encoder: {source.name} has {len(picture)} channels, expected {expected}")
        # Not in the main thread, which Ctrl-C could end while others still write to its planes.
        features = self._pool.submit(self._shared_features, source.name, picture, size).result()
        # A copy in the order of the shape would take a sixth of the encoder's time, and the maps need this one.
        return {result.name: features.transpose(2, 0, 1)[None]}

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _shared_features(self, source: str, picture: Array, size: Size) -> Array:
        with self._crew.phase() as phase:
            phase.begin()
            for _ in range(self._helpers):
                self._pool.submit(self._crew.help, phase)
            return self._features(source, picture, size)

    def _features(self, source: str, picture: Array, size: Size) -> Array:
        """Picture [C, h, w] → features [h, w, O]."""
        last_use = {name: n for n, layer in enumerate(self._layers) for name in _sources(layer)}
        planes = {source: plane_of(self._target, picture)}
        free: list[Array] = []
        for n, step in enumerate(self._steps):
            shape = (*plane_size(size), step.kind.outputs)
            # Whatever a plane held before, its border is 0: nothing writes there.
            fitting = [k for k, plane in enumerate(free) if plane.shape == shape]
            planes[step.layer.target] = free.pop(fitting[0]) if fitting else np.zeros(shape, np.float32)
            step.run(planes, size, self._crew)
            free += [
                planes.pop(name)
                for name in list(planes)
                if last_use.get(name, len(self._steps)) <= n < len(self._steps) - 1
            ]
        return planes[self._layers[-1].target][1 : size[0] + 1, 1 : size[1] + 1, : self._outputs]

    def work(self, feeds: Tensors) -> tuple[int, int]:
        """Return the multiplications of a call, and its bytes: planes read and written, transformed weights once."""
        height, width = plane_size((feeds["image"].shape[2], feeds["image"].shape[3]))
        kinds = [step.kind for step in self._steps]
        values = sum(kind.inputs + kind.outputs * (1 + kind.is_added) for kind in kinds) * height * width
        weights = sum(kind.weights for kind in kinds)
        return sum(kind.macs for kind in kinds) * height * width, WORD * (values + weights)

    @property
    def _outputs(self) -> int:
        return len(self._layers[-1].bias)


class NativeStep:
    """A layer with its weights transformed and its function."""

    def __init__(self, target: Target, layer: PlaneLayer, call: Call) -> None:
        self.layer, self.kind = layer, layer.kind(target)
        self._target, self._call = target, call
        whole = np.concatenate([self._whole(part.weights) for part in layer.parts], axis=1)
        is_pointwise = self.kind.is_pointwise
        self._weights = packed(target, self.kind.planes, whole) if is_pointwise else transformed(target, whole)
        self._bias = np.pad(layer.bias.astype(np.float32), (0, self.kind.outputs - len(layer.bias)))

    def _whole(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Return weights for whole vectors of channels, beside 3×3 ones a 1×1 convolution's in the middle of zeros."""
        outputs, inputs, size, _ = weights.shape
        margin = (((1 if self.kind.is_pointwise else 3) - size) // 2,) * 2
        missing = (0, self.kind.outputs - outputs), (0, self._target.padded(inputs) - inputs)
        return np.pad(weights, (*missing, margin, margin))

    def run(self, planes: Mapping[str, Array], size: Size, crew: Crew) -> None:
        """Fill the target plane; values beyond the picture become 0 again, as the next layer's padding."""
        target = planes[self.layer.target]
        lines, pixels = target.shape[0] - 2, target.shape[1]
        # Kernels of 1×1 convolutions take the border's pixels for others.
        side, width = (1, pixels) if self.kind.is_pointwise else (OUT, pixels - 2)
        tiles = lines * width // (side * side)
        sources = (planes[part.source] for part in self.layer.parts)
        taken = np.zeros(1, np.int64)
        arrays = (*sources, target, planes.get(self.layer.added), self._weights, self._bias, taken)
        shared: list[Argument] = [*(address(array) for array in arrays), pixels, tiles, pixels // OUT]
        scratch = self.kind.scratch(self._target)
        crew.run(lambda: self._call([_memory.scratch(scratch), *shared]), self.kind.macs * lines * width)
        target[size[0] + 1 :] = 0
        target[:, size[1] + 1 :] = 0
        target[:, 0] = 0


class _ThreadMemory(threading.local):
    """Scratch memory of the calling thread: the largest so far. New memory for each part would be new pages, too."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def scratch(self, size: int) -> NDArray[np.uint8]:
        if len(self._bytes) < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes


_memory = _ThreadMemory()


def _sources(layer: PlaneLayer) -> tuple[str, ...]:
    return (*(part.source for part in layer.parts), layer.added)


def plane_size(size: Size) -> Size:
    """Return rows and columns of a plane: whole tiles, and a border of one pixel."""
    height, width = padded_size(size, OUT)
    return height + 2, width + 2


def plane_of(target: Target, picture: Array) -> Array:
    """Return the plane of a picture [C, h, w]."""
    channels, height, width = picture.shape
    plane = np.zeros((*plane_size((height, width)), target.padded(channels)), np.float32)
    plane[1 : height + 1, 1 : width + 1, :channels] = picture.transpose(1, 2, 0)
    return plane
