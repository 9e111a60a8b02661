"""The seam between the decode driver and an engine: how the graphs of one bundle are run on the queries of a tile."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.job import Job, Sums, TileQueries, Window
from hiif_deploy.decoding.output_check import ColourRange
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.pixels import Frame

T = TypeVar("T")


@dataclass(frozen=True)
class BlockSums:
    """Sums of a statistics pass over some of a tile's queries."""

    window: Window
    """Where they lie in the output."""
    sums: dict[str, NDArray[Any]]
    """Output name of the graph → sum."""

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite, which fp16 may give."""
        return all(bool(np.isfinite(value).all()) for value in self.sums.values())


@dataclass(frozen=True)
class DecodedBlock:
    """Finished values of some of a tile's queries."""

    window: Window
    """Where they lie in the output."""
    values: Frame
    """[r, c, 1 or 3] of the job's frame type, the caller's own."""
    range: ColourRange
    """Of the colours before they were clamped."""


def run_fold(session: Session, sums: Sums, count: int) -> dict[str, NDArray[Any]]:
    """Run a `fold_n` graph on sums over `count` queries: inputs of the next passes, by name."""
    return session.run({**sums, "count": np.array([count], dtype=np.float64)})


class Executor(Protocol):
    """Runs one bundle's graphs. Thread-safe; the decoder calls it with one tile at a time, in any number of threads.

    >>> for blocks in executor.each(lambda queries: executor.blocks(job, queries, folded), tiles):
    ...     for block in blocks:
    ...         frame[slice(*block.window.rows), slice(*block.window.columns)] = block.values
    """

    def each(self, work: Callable[[TileQueries], Iterable[T]], tiles: Iterable[TileQueries]) -> Iterator[Iterable[T]]:
        """Results of `work` for every tile, in order; on all threads, or in turn where a device computes."""
        ...

    def sums(self, job: Job, queries: TileQueries, folded: Tensors, n: int) -> Iterable[BlockSums]:
        """Statistics pass `n` over a tile's queries, or over those that the job samples."""
        ...

    def fold(self, n: int, sums: Sums, count: int) -> dict[str, NDArray[Any]]:
        """Sums of pass `n` over `count` queries → inputs of the next passes."""
        ...

    def place(self, folded: Tensors, graph: str) -> Tensors:
        """`folded` where the named graph (`statistics_n` or `decoder`) reads it fastest; called once per pass."""
        ...

    def blocks(self, job: Job, queries: TileQueries, folded: Tensors) -> Iterable[DecodedBlock]:
        """The colours of a tile's queries as values of a frame."""
        ...


class DeviceExecutor:
    """What executors on one device share: tiles run in turn, folds on the processor."""

    def __init__(self, folds: Mapping[str, Session]) -> None:
        self._folds = folds

    def each(self, work: Callable[[TileQueries], Iterable[T]], tiles: Iterable[TileQueries]) -> Iterator[Iterable[T]]:
        """See `Executor`; in turn, because the device is shared."""
        return map(work, tiles)

    def fold(self, n: int, sums: Sums, count: int) -> dict[str, NDArray[Any]]:
        """See `Executor`; tiny and float64."""
        return run_fold(self._folds[f"fold_{n}"], sums, count)


def one_ahead(queued: Iterable[T]) -> Iterator[T]:
    """What iterating queues, each once the next one is queued too: that one computes while this one is read."""
    waiting: deque[T] = deque()
    for one in queued:
        waiting.append(one)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
