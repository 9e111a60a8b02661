"""Decodes tiles by native code: features with contiguous channels, threads that help each other with the last tiles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.executor import T
from hiif_deploy.decoding.job import Job, TileQueries
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.session_executor import Block, SessionExecutor
from hiif_deploy.decoding.staged import StagedExecutor
from hiif_deploy.geometry.tiling import Tile
from hiif_engines.native.crew import Crew, Phase


class WholeExecutor(SessionExecutor):
    """`SessionExecutor` for sessions that share their calls by `crew`: a thread without a tile helps the others.

    It hands features to the maps with their channels contiguous, as native code has them.
    """

    def __init__(
        self, contract: Contract, sessions: dict[str, Session], converter: FrameConverter, threads: int, crew: Crew
    ) -> None:
        super().__init__(contract, sessions, converter, threads)
        self._crew, self._helpers = crew, threads - 1

    def each(self, work: Callable[[TileQueries], Iterable[T]], tiles: Iterable[TileQueries]) -> Iterator[list[T]]:
        """See `Executor`; on all threads."""
        with self._crew.phase() as phase:

            def finished(tile: TileQueries) -> list[T]:
                try:
                    return list(work(tile))
                finally:
                    phase.finish()

            yield from super().each(finished, self._announced(tiles, phase))

    def _announced(self, tiles: Iterable[TileQueries], phase: Phase) -> Iterator[TileQueries]:
        """Yield the tiles, then queue help behind them: a thread comes to it once all tiles have been taken."""
        for tile in tiles:
            phase.begin()
            yield tile
        for _ in range(self._helpers):
            self._pool.submit(self._crew.help, phase)

    def _maps(self, job: Job, tile: Tile) -> Callable[[], Tensors]:
        session = self.sessions["maps"]

        def run() -> Tensors:
            return session.run({"features": job.with_halo(tile, channels_last=True)})

        return functools.cache(lambda: job.kept_maps(tile, run))


class NativeExecutor(WholeExecutor, StagedExecutor):
    """The same for a decoder in stages. States are overwritten by the next ones: new memory would be new pages."""

    def _mixed(self, job: Job, block: Block, folded: Tensors, state: NDArray[Any], blocks: range) -> NDArray[Any]:
        for k in blocks:
            feeds = {f"state_{k}": state, **folded, f"state_{k + 1}": state}
            state = self.run(f"mix_{k}", job, block, feeds)[f"state_{k + 1}"]
        return state
