"""The decoder in stages: caches the queries' hidden state between passes, within the memory budget.

Same values as `SessionExecutor`, its reference, up to rounding. State 0 of a query is level 0's activation, state
n + 1 is state n with attention block n applied. A pass starts from the latest state at hand, from nothing if need be.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import FIRST_STAGE, Contract, GraphContract, joined
from hiif_deploy.decoding.conversion import FrameConverter
from hiif_deploy.decoding.decoder import accumulate
from hiif_deploy.decoding.job import Array, Job, Sums
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.decoding.session_executor import Block, SessionExecutor

LAST_PASS = "last_pass"
"""Graphs `mix_n` and `tail` joined: colours from state 0."""
WHOLE = "whole"
"""`first` and the last pass joined: colours from maps."""


class StagedExecutor(SessionExecutor):
    """`SessionExecutor` for bundles with stages. Sessions of joined stages are optional: engines that lack one run its
    parts."""

    def __init__(
        self, contract: Contract, sessions: dict[str, Session], converter: FrameConverter, threads: int
    ) -> None:
        super().__init__(contract, sessions, converter, threads)
        self._geometry |= {name: joined(name, parts).geometry for name, parts in joined_stages(contract).items()}

    def add_sums(self, sums: Sums, job: Job, blocks: list[Block], folded: Tensors, n: int) -> None:
        """Pass `n` over blocks of one tile, in one call; their state stays for the next pass that needs them."""
        state = self._state(job, blocks, folded, n)
        if n + 1 < self.contract.decoder.statistics_passes or not blocks[0].is_sample:
            # A copy where the engine hands out parts of arenas that it doubles: it would hold twice what is kept.
            job.state_cache.put(blocks[0].key, n, state if state.flags.owndata else state.copy())
        accumulate(sums, self.run(f"sums_{n}", job, blocks[0], {f"state_{n}": state}))

    def block_colours(self, job: Job, block: Block, folded: Tensors) -> Array:
        """The decoder's output [R · W, 3] for one block."""
        last = max(0, self.contract.decoder.statistics_passes - 1)
        kept = job.state_cache.take(block.key)
        if kept is None and WHOLE in self.sessions:
            return self.run(WHOLE, job, block, {**block.maps(), **folded})["colour"]
        step, state = kept or (0, self._first(job, [block]))
        if step == 0 and LAST_PASS in self.sessions:
            return self.run(LAST_PASS, job, block, {"state_0": state, **folded})["colour"]
        state = self._mixed(job, block, folded, state, range(step, last))
        colours: Array = self.run("tail", job, block, {f"state_{last}": state, **folded})["colour"]
        return colours

    def _state(self, job: Job, blocks: list[Block], folded: Tensors, n: int) -> NDArray[Any]:
        """State `n` of these queries, from the latest one that was kept."""
        step, state = job.state_cache.take(blocks[0].key) or (0, self._first(job, blocks))
        return self._mixed(job, blocks[0], folded, state, range(step, n))

    def _mixed(self, job: Job, block: Block, folded: Tensors, state: NDArray[Any], blocks: range) -> NDArray[Any]:
        """The state after these attention blocks."""
        for k in blocks:
            state = self.run(f"mix_{k}", job, block, {f"state_{k}": state, **folded})[f"state_{k + 1}"]
        return state

    def _first(self, job: Job, blocks: list[Block]) -> NDArray[Any]:
        states = [self.run(FIRST_STAGE, job, block, block.maps())["state_0"] for block in blocks]
        return states[0] if len(states) == 1 else np.concatenate(states)


def joined_stages(contract: Contract) -> dict[str, tuple[GraphContract, ...]]:
    """Name → the stages that an engine may join into one graph."""
    last = contract.last_pass
    return {LAST_PASS: last, WHOLE: (contract.stages[FIRST_STAGE], *last)}
