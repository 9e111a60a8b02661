"""A tile's blocks of queries, and its tables on the GPU of which each block reads a part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.memory import DeviceTensor
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.bundle.contract import GraphContract
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


class BlockTables:
    """A tile's inputs of one graph on the GPU; `of` cuts a block's part out, in buffers that equal blocks share."""

    def __init__(self, gpu: Gpu, graph: GraphContract, values: Mapping[str, NDArray[Any]]) -> None:
        """`values` by the names of inputs; those that the graph does not have are left out."""
        self._gpu = gpu
        self._axes = {tensor.name: tensor.shape for tensor in graph.inputs}
        self._host = {t.name: np.ascontiguousarray(values[t.name], t.dtype) for t in graph.inputs if t.name in values}
        self._whole: DeviceTensors = {}
        self._parts: dict[tuple[str, tuple[int, ...]], DeviceTensor] = {}

    def __enter__(self) -> BlockTables:
        with self._gpu.turn():
            self._whole = {name: self._gpu.pool.upload(a, self._gpu.compute) for name, a in self._host.items()}
        return self

    def __exit__(self, *_: object) -> None:
        with self._gpu.turn():
            # The uploads read the host's arrays, which end with this object.
            self._gpu.device.synchronize(self._gpu.compute)
            self._gpu.pool.give(*self._whole.values(), *self._parts.values())

    def of(self, block: Block) -> DeviceTensors:
        """Queue the cutting; the tensors are valid until the next call."""
        return {name: self._part(name, tensor, block) for name, tensor in self._whole.items()}

    def _part(self, name: str, tensor: DeviceTensor, block: Block) -> DeviceTensor:
        """The entries of the block's rows or columns, by the contract's name of an axis."""
        for axis, (kind, size) in enumerate(zip(self._axes[name], tensor.shape, strict=True)):
            part = {"rows": block.rows, "columns": block.columns}.get(str(kind))
            if part is None or length(part) == size:
                continue
            shape = (*tensor.shape[:axis], length(part), *tensor.shape[axis + 1 :])
            found = self._parts.get((name, shape))
            if found is None:
                found = self._parts[name, shape] = self._gpu.pool.take(shape, tensor.dtype)
            entry = math.prod(tensor.shape[axis + 1 :]) * tensor.dtype.itemsize
            width = length(part) * entry
            self._gpu.device.copy_rows(
                found.address, width, tensor.address + part.start * entry, size * entry, width,
                math.prod(tensor.shape[:axis]), self._gpu.compute,
            )  # fmt: skip
            return found
        return tensor
