"""Decoded colours to a frame's values, on the GPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.cuda.memory import ALIGNMENT, DeviceTensor
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.tensorrt.geometry import Block, BlockTables, DeviceTensors
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import finish_feeds
from hiif_deploy.decoding.executor import DecodedBlock
from hiif_deploy.decoding.job import Job, TileQueries
from hiif_deploy.decoding.output_check import ColourRange

SCALARS = ("low", "high", "total")
"""Outputs of a `finish` graph beside the values: the range of the colours."""
HEADER = len(SCALARS) * ALIGNMENT
"""Bytes ahead of a block's values, so that one download brings the scalars too."""


class TrtFinish:
    """Runs a shared graph `finish-TYPE` on a tile's blocks."""

    def __init__(
        self, gpu: Gpu, contract: Contract, session: TrtSession, job: Job, queries: TileQueries, blocks: list[Block]
    ) -> None:
        """The frame's part below the tile is uploaded, unless the features keep the whole frame on the GPU."""
        self._gpu, self._session, self._job, self._queries = gpu, session, job, queries
        self._dtype = np.dtype(session.graph.outputs[0].dtype)
        feeds = finish_feeds(contract, job.frame, queries.rows, queries.columns)
        origins = [int(axis.skip_taps.min()) for axis in (queries.rows, queries.columns)]
        size = feeds["frame"].shape
        self._kept = job.features.kept_frame(job.frame) if contract.decoder.skip == "bilinear" else None
        if self._kept is None:
            origins = [0, 0]
        else:
            del feeds["frame"]
        rows, self._height = _localise(feeds, "row", [block.rows for block in blocks], size[0])
        columns, self._width = _localise(feeds, "column", [block.columns for block in blocks], size[1])
        self._starts = {
            (block.rows.start, block.columns.start): (
                origins[0] + rows[block.rows.start], origins[1] + columns[block.columns.start],
            )
            for block in blocks
        }  # fmt: skip
        self._tables = BlockTables(gpu, session.graph, feeds)
        self._part: DeviceTensor | None = None

    def __enter__(self) -> TrtFinish:
        self._tables.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.__exit__()
        if self._part is not None:
            self._gpu.pool.give(self._part)

    def enqueue(self, block: Block, colour: DeviceTensor) -> DeviceTensor:
        """Queue a block's finishing: colours [queries, 3] → bytes of the scalars and the values, for `read`.

        The caller gives them back to the pool.
        """
        tables = self._tables.of(block)
        shape = (*block.shape, self._job.frame.shape[2])
        packed = self._gpu.pool.take((HEADER + math.prod(shape) * self._dtype.itemsize,), np.uint8)
        outputs = {"values": DeviceTensor(packed.address + HEADER, shape, self._dtype)}
        for n, name in enumerate(SCALARS):
            outputs[name] = DeviceTensor(packed.address + n * ALIGNMENT, (), np.dtype(np.float32))
        given = {**tables, "frame": self._frame(block, tables), "colour": colour}
        self._session.enqueue({**given, **outputs}, self._gpu.compute)
        return packed

    def read(self, block: Block, packed: NDArray[np.uint8]) -> DecodedBlock:
        """The downloaded bytes of a block as values of the job's frame type, in memory of their own."""
        shape = (*block.shape, self._job.frame.shape[2])
        values = packed[HEADER:].view(self._dtype).reshape(shape).astype(self._job.frame.dtype)
        low, high, total = packed[:HEADER].view(np.float32)[:: ALIGNMENT // 4]
        window = self._queries.part(block.rows, block.columns)
        return DecodedBlock(window, values, ColourRange(float(low), float(high), float(total)))

    def _frame(self, block: Block, tables: DeviceTensors) -> DeviceTensor:
        """Queue the copy of the source pixels that the block's skip reads into a fixed buffer."""
        whole = tables.get("frame", self._kept)
        assert whole is not None
        shape = (self._height, self._width, whole.shape[2])
        if shape == whole.shape:
            return whole
        if self._part is None:
            self._part = self._gpu.pool.take(shape, whole.dtype)
        top, left = self._starts[block.rows.start, block.columns.start]
        pixel = whole.shape[2] * whole.dtype.itemsize
        pitch, width = whole.shape[1] * pixel, self._width * pixel
        self._gpu.device.copy_rows(
            self._part.address, width, whole.address + top * pitch + left * pixel, pitch, width, self._height,
            self._gpu.compute,
        )  # fmt: skip
        return self._part


def _localise(feeds: dict[str, NDArray[Any]], axis: str, parts: list[slice], size: int) -> tuple[dict[int, int], int]:
    """Count an axis's skip taps from the first source pixel of their block's part, and return these pixels by the
    block's start, and the number of source pixels of a part.

    It is the same for all blocks, because TensorRT wants a context, and a CUDA graph, for every shape.
    """
    lower, upper = feeds[f"{axis}_skip_lower"].copy(), feeds[f"{axis}_skip_upper"].copy()
    spans = {part.start: (part, int(lower[part].min()), int(upper[part].max())) for part in parts}
    length = max(last - first for _, first, last in spans.values()) + 1
    starts = {}
    for start, (part, first, _) in spans.items():
        starts[start] = first = min(first, size - length)
        lower[part] -= first
        upper[part] -= first
    feeds[f"{axis}_skip_lower"], feeds[f"{axis}_skip_upper"] = lower, upper
    return starts, length
