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
from hiif_deploy.decoding.conversion import RANGE, colour_range, finish_feeds
from hiif_deploy.decoding.executor import DecodedBlock
from hiif_deploy.decoding.job import Job, TileQueries

HEADER = len(RANGE) * ALIGNMENT
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
        size, origin = feeds["frame"].shape, (0, 0)
        self._kept = job.features.kept_frame(job.frame) if contract.decoder.skip == "bilinear" else None
        if self._kept is not None:
            del feeds["frame"]
            origin = int(queries.rows.skip_taps.min()), int(queries.columns.skip_taps.min())
        self._rows, self._height = _localise(feeds, "row", [block.rows for block in blocks], size[0], origin[0])
        self._columns, self._width = _localise(feeds, "column", [b.columns for b in blocks], size[1], origin[1])
        self._tables = BlockTables(gpu, session.graph, feeds)
        self._part: DeviceTensor | None = None

    def __enter__(self) -> TrtFinish:
        self._tables.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.__exit__()
        if self._part is not None:
            with self._gpu.turn():
                self._gpu.pool.give(self._part)

    def enqueue(self, block: Block, colour: DeviceTensor) -> DeviceTensor:
        """Queue a block's finishing: colours [queries, 3] → bytes of the scalars and the values, for `read`.

        The caller gives them back to the pool.
        """
        tables = self._tables.of(block)
        shape = (*block.shape, self._job.frame.shape[2])
        packed = self._gpu.pool.take((HEADER + math.prod(shape) * self._dtype.itemsize,), np.uint8)
        outputs = {"values": DeviceTensor(packed.address + HEADER, shape, self._dtype)}
        for n, name in enumerate(RANGE):
            outputs[name] = DeviceTensor(packed.address + n * ALIGNMENT, (), np.dtype(np.float32))
        given = {**tables, "frame": self._frame(block, tables), "colour": colour}
        self._session.enqueue({**given, **outputs}, self._gpu.compute)
        return packed

    def read(self, block: Block, packed: NDArray[np.uint8]) -> DecodedBlock:
        """The downloaded bytes of a block as values of the job's frame type, in memory of their own."""
        shape = (*block.shape, self._job.frame.shape[2])
        values = packed[HEADER:].view(self._dtype).reshape(shape).astype(self._job.frame.dtype)
        scalars = packed[:HEADER].view(np.float32)[:: ALIGNMENT // 4]
        window = self._queries.part(block.rows, block.columns)
        return DecodedBlock(window, values, colour_range(dict(zip(RANGE, scalars, strict=True))))

    def _frame(self, block: Block, tables: DeviceTensors) -> DeviceTensor:
        """Queue the copy of the source pixels that the block's skip reads into a fixed buffer."""
        whole = tables.get("frame", self._kept)
        assert whole is not None
        shape = (self._height, self._width, whole.shape[2])
        if shape == whole.shape:
            return whole
        if self._part is None:
            self._part = self._gpu.pool.take(shape, whole.dtype)
        top, left = self._rows[block.rows.start], self._columns[block.columns.start]
        pixel = whole.shape[2] * whole.dtype.itemsize
        pitch, width = whole.shape[1] * pixel, self._width * pixel
        self._gpu.device.copy_rows(
            self._part.address, width, whole.address + top * pitch + left * pixel, pitch, width, self._height,
            self._gpu.compute,
        )  # fmt: skip
        return self._part


def _localise(
    feeds: dict[str, NDArray[Any]], axis: str, parts: list[slice], size: int, origin: int
) -> tuple[dict[int, int], int]:
    """Count an axis's skip taps from the first source pixel below their block. Returns these pixels by the blocks'
    starts, and how many lie below a block; `feeds` count from pixel `origin`, which `size` pixels follow.

    As many for all blocks, because a new shape costs TensorRT time.
    """
    lower, upper = (feeds[name].copy() for name in (f"{axis}_skip_lower", f"{axis}_skip_upper"))
    count = max(int(upper[part].max() - lower[part].min()) for part in parts) + 1
    starts = {}
    for part in {part.start: part for part in parts}.values():
        first = min(int(lower[part].min()), size - count)
        lower[part] -= first
        upper[part] -= first
        starts[part.start] = origin + first
    feeds |= {f"{axis}_skip_lower": lower, f"{axis}_skip_upper": upper}
    return starts, count
