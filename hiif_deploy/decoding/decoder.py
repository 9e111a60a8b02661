"""The decode loop of every engine: statistics passes, folds, colours; a check of every block, and a second way for
blocks that half precision could not compute."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.encode import encoder_calls
from hiif_deploy.decoding.executor import BlockSums, DecodedBlock, Executor, T
from hiif_deploy.decoding.job import Job, Statistics, Sums, TileQueries, Window
from hiif_deploy.decoding.output_check import check_range
from hiif_deploy.decoding.plan import Plan
from hiif_deploy.decoding.queries import query_axes
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.geometry.tiling import decoder_tiles
from hiif_deploy.pixels import Frame


class Fallback(Protocol):
    """Another way to the same values, for blocks that came out as NaN or infinite."""

    def sums(self, job: Job, window: Window, folded: Tensors, n: int) -> Sums:
        """Statistics pass `n` over the window."""
        ...

    def values(self, job: Job, window: Window, statistics: Statistics) -> Frame:
        """[r, c, 1 or 3] of the window, of the job's frame type."""
        ...


class Decoder:
    """Decodes jobs of one bundle on one executor. Thread-safe where the executor is."""

    def __init__(self, contract: Contract, executor: Executor, name: str, fallback: Fallback | None = None) -> None:
        """`name` of the engine, for errors."""
        self.contract = contract
        self._where = f"bundle {contract.name} ({name})"
        self.executor = executor
        self._fallback = fallback

    def statistics(self, job: Job, window: Window) -> Statistics:
        """All statistics passes over the queries of `window`, or over those that the job samples."""
        folded: dict[str, NDArray[Any]] = {}
        count = job.count(window)
        for n in range(self.contract.decoder.statistics_passes):
            folded.update(self.executor.fold(n, self.sums(job, window, folded, n), count))
        return Statistics(folded)

    def sums(self, job: Job, window: Window, folded: Tensors, n: int) -> Sums:
        """Sums of pass `n` over the queries of `window`, in float64; `folded` is the result of the earlier passes."""
        placed = self.executor.place(folded, f"statistics_{n}")
        total: Sums = {}
        work = partial(self.executor.sums, job, folded=placed, n=n)
        for block in self._each_block(work, job, window):
            accumulate(total, self._finite_sums(job, block, folded, n))
        return total

    def frames(self, job: Job, window: Window, statistics: Statistics) -> Iterator[tuple[slice, slice, Frame]]:
        """Yields (rows, columns) within `window` and their values [r, c, 1 or 3] of the job's frame type.

        NotAPictureError where the values are none, and no fallback gives better ones.
        """
        folded = self.executor.place(statistics.folded, "decoder")
        work = partial(self.executor.blocks, job, folded=folded)
        for block in self._each_block(work, job, window):
            values = self._checked(job, block, statistics)
            yield *block.window.within(window), values

    def _each_block(self, work: Callable[[TileQueries], Iterable[T]], job: Job, window: Window) -> Iterator[T]:
        """Results of `work` for all tiles; a step is reported when those of a tile are used up.

        A generator of its own, which ends with the loop over it: a variable of that loop would live on in the traceback
        of an error, and with it what an executor holds for a tile, beyond the end of the backend.
        """
        for blocks in self.executor.each(work, self._tiles(job, window)):
            yield from blocks
            job.advance(1)

    def _finite_sums(self, job: Job, block: BlockSums, folded: Tensors, n: int) -> Tensors:
        if self._fallback is None or block.is_finite:
            return block.sums
        return self._fallback.sums(job, block.window, folded, n)

    def _checked(self, job: Job, block: DecodedBlock, statistics: Statistics) -> Frame:
        if self._fallback is not None and not block.range.is_finite:
            return self._fallback.values(job, block.window, statistics)
        if job.clamps:
            check_range(block.range, self._where)
        return block.values

    def _tiles(self, job: Job, window: Window) -> Iterator[TileQueries]:
        rows, columns = query_axes(self.contract, job.source, job.size, window)
        for tile in decoder_tiles(rows, columns, job.plan.decoder_tile, job.plan.tile_queries):
            yield TileQueries(window, tile, rows[tile.rows], columns[tile.columns])


def step_count(contract: Contract, plan: Plan, source: Size, target: Size, windows: list[Window]) -> int:
    """How many steps `encode` and all passes over the windows report: one per encoder tile, and one per decoder tile
    and pass."""
    axes = (query_axes(contract, source, target, window) for window in windows)
    tiles = sum(len(decoder_tiles(rows, columns, plan.decoder_tile, plan.tile_queries)) for rows, columns in axes)
    return encoder_calls(source, plan) + (contract.decoder.statistics_passes + 1) * tiles


def accumulate(sums: Sums, part: Tensors) -> None:
    """Add the values of `part` to `sums` by name, in float64."""
    for name, value in part.items():
        # A picture has thousands of blocks: float32 would lose the digits of later ones.
        sums[name] = sums.get(name, 0) + value.astype(np.float64)
