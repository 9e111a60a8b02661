"""The decode loop of every engine, on an executor that holds something for each tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
import pytest

from hiif_deploy.decoding.decoder import Decoder
from hiif_deploy.decoding.executor import DecodedBlock, Executor
from hiif_deploy.decoding.job import Job, Statistics, TileQueries, Window
from hiif_deploy.decoding.output_check import ColourRange, NotAPictureError
from hiif_deploy.decoding.plan import make_plan
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.geometry.grid import relative_cell
from hiif_deploy.pixels import Frame
from sample_contract import make_contract

SOURCE, SIZE = (24, 20), (48, 40)
WINDOW = Window((0, SIZE[0]), (0, SIZE[1]))


class HoldingExecutor:
    """Yields one block for each tile, and counts the tiles whose memory is held."""

    def __init__(self, high: float) -> None:
        self.high, self.held = high, 0

    def each(self, work: Callable[[TileQueries], Iterable[Any]], tiles: Iterable[TileQueries]) -> Iterator[Any]:
        return map(work, tiles)

    def place(self, folded: Tensors, graph: str) -> Tensors:
        assert graph == "decoder"
        return folded

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterator[DecodedBlock]:
        del job, folded
        self.held += 1
        try:
            values = np.zeros((*queries.whole.shape, 3), np.uint8)
            yield DecodedBlock(queries.whole, values, ColourRange(0, self.high, self.high))
        finally:
            self.held -= 1


def make_job(steps: list[int]) -> Job:
    contract = make_contract()
    features = np.zeros((contract.encoder.channels, *SOURCE), np.float32)
    frame = np.zeros((*SOURCE, 3), np.uint8)
    plan = make_plan(contract, SOURCE)
    return Job(contract, features, frame, SIZE, plan, relative_cell(SOURCE, SIZE), advance=steps.append)


def frames(executor: HoldingExecutor, job: Job) -> list[tuple[slice, slice, Frame]]:
    decoder = Decoder(job.contract, cast(Executor, executor), "an engine")
    return list(decoder.frames(job, WINDOW, Statistics({})))


def test_a_step_is_reported_for_every_tile() -> None:
    steps: list[int] = []
    executor, job = HoldingExecutor(1), make_job(steps)
    parts = frames(executor, job)
    assert (len(parts), executor.held) == (len(steps), 0)
    assert sum(values.shape[0] * values.shape[1] for _, _, values in parts) == SIZE[0] * SIZE[1]


def test_nothing_is_held_for_a_tile_after_an_error_whose_traceback_is_kept() -> None:
    executor, job = HoldingExecutor(float("nan")), make_job([])
    with pytest.raises(NotAPictureError) as kept:
        frames(executor, job)
    assert kept.value.__traceback__ is not None
    assert executor.held == 0
