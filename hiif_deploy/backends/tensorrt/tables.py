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
    """A tile's inputs of one graph on the GPU; `of` cuts a block's part out."""

    def __init__(self, gpu: Gpu, graph: GraphContract, values: Mapping[str, NDArray[Any]]) -> None:
        """Queue the uploads. `values` by the names of inputs; those that the graph does not have are left out."""
        self._gpu = gpu
        self._axes = {tensor.name: tensor.shape for tensor in graph.inputs}
        self._whole = {t.name: gpu.upload(values[t.name], np.dtype(t.dtype)) for t in graph.inputs if t.name in values}

    def of(self, block: Block) -> DeviceTensors:
        """Queue the cutting."""
        return {name: self._part(name, tensor, block) for name, tensor in self._whole.items()}

    def _part(self, name: str, tensor: DeviceTensor, block: Block) -> DeviceTensor:
        """The entries of the block's rows or columns, by the contract's name of an axis."""
        for axis, (kind, size) in enumerate(zip(self._axes[name], tensor.shape, strict=True)):
            part = {"rows": block.rows, "columns": block.columns}.get(str(kind))
            if part is None or length(part) == size:
                continue
            found = self._gpu.pool.take((*tensor.shape[:axis], length(part), *tensor.shape[axis + 1 :]), tensor.dtype)
            entry = math.prod(tensor.shape[axis + 1 :]) * tensor.dtype.itemsize
            width = length(part) * entry
            self._gpu.device.copy_rows(
                found.address, width, tensor.address + part.start * entry, size * entry, width,
                math.prod(tensor.shape[:axis]), self._gpu.compute,
            )  # fmt: skip
            return found
        return tensor
