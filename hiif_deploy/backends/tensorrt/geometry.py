"""A tile's axis tables on the GPU, and the parts of them that each block of queries reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hiif_deploy.backends.cuda.memory import DeviceTensor
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.job import Job, TileQueries
from hiif_deploy.decoding.queries import geometry_inputs
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import length

DeviceTensors = dict[str, DeviceTensor]


@dataclass(frozen=True)
class Block:
    """Queries of one call, a rectangle of a tile."""

    rows: slice
    """Of the tile's rows."""
    columns: slice
    """Of the tile's columns."""

    @property
    def shape(self) -> Size:
        """Number of rows and columns."""
        return length(self.rows), length(self.columns)


class Geometry:
    """A tile's axis tables and the folded attention on the GPU; `of` cuts a block's part out, in fixed buffers.

    Fixed, because a CUDA graph holds addresses: equal blocks are one graph.
    """

    def __init__(self, gpu: Gpu, graph: GraphContract, job: Job, queries: TileQueries, folded: Tensors) -> None:
        self._gpu = gpu
        whole = geometry_inputs(graph.geometry, queries.rows, queries.columns, queries.tile, job.cell)
        dtypes = {tensor.name: tensor.dtype for tensor in graph.inputs}
        named = {**whole, **{name: value for name, value in folded.items() if name in dtypes}}
        self._host = {name: np.ascontiguousarray(value, dtype=dtypes[name]) for name, value in named.items()}
        self._whole: DeviceTensors = {}
        self._parts: dict[tuple[str, tuple[int, ...]], DeviceTensor] = {}

    def __enter__(self) -> Geometry:
        with self._gpu.lock:
            self._whole = {name: self._gpu.pool.upload(a, self._gpu.compute) for name, a in self._host.items()}
        return self

    def __exit__(self, *_: object) -> None:
        with self._gpu.lock:
            # The uploads read the host's arrays, which end with this object.
            self._gpu.device.synchronize(self._gpu.compute)
            self._gpu.pool.give(*self._whole.values(), *self._parts.values())

    def of(self, block: Block) -> DeviceTensors:
        """Queue the cutting; the tensors are valid until the next call."""
        return {name: self._part(name, tensor, block) for name, tensor in self._whole.items()}

    def _part(self, name: str, tensor: DeviceTensor, block: Block) -> DeviceTensor:
        axis = {"row": 1, "column": 2}.get(name.partition("_")[0]) if len(tensor.shape) == 3 else None
        if axis is None:
            return tensor
        part = block.rows if axis == 1 else block.columns
        if length(part) == tensor.shape[axis]:
            return tensor
        shape = (*tensor.shape[:axis], length(part), *tensor.shape[axis + 1 :])
        found = self._parts.get((name, shape))
        if found is None:
            found = self._parts[name, shape] = self._gpu.pool.take(shape, tensor.dtype)
        size = tensor.dtype.itemsize
        width = length(part) * size
        self._gpu.device.copy_rows(
            found.address, width, tensor.address + part.start * size, tensor.shape[axis] * size, width,
            tensor.shape[0], self._gpu.compute,
        )  # fmt: skip
        return found
