"""The decoder in stages: what a pass has computed for a query is carried to the next one where memory allows.

Same answers as `decode.Decoder`, its reference twin, up to rounding. State 0 of a query is level 0's activation, state
n + 1 is state n with attention block n applied. A pass starts from the latest state at hand, from nothing if need be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import FIRST_STAGE, Contract, joined
from hiif_deploy.decoding.decoder import Decoder, accumulate
from hiif_deploy.decoding.job import Array, Block, Job, Sums
from hiif_deploy.decoding.session import Session, Tensors

LAST_PASS = "last_pass"
"""Name of a session that, where the engine has it, answers colours from state 0: all `mix_n` and `tail` in one call."""
WHOLE = "whole"
"""Name of one that answers colours from maps: `first` and the last pass."""


class StagedDecoder(Decoder):
    """`Decoder` for bundles with stages."""

    def __init__(self, contract: Contract, sessions: dict[str, Session], threads: int) -> None:
        super().__init__(contract, sessions, threads)
        last = contract.last_pass
        for name, parts in {LAST_PASS: last, WHOLE: (contract.stages[FIRST_STAGE], *last)}.items():
            self._names[name] = joined(name, parts).geometry

    def add_sums(self, sums: Sums, job: Job, blocks: list[Block], folded: Tensors, n: int) -> None:
        """Pass `n` over blocks of one tile, in one call; their state stays for the next pass that asks them."""
        state = self._state(job, blocks, folded, n)
        if n + 1 < self.contract.decoder.statistics_passes or not blocks[0].is_sample:
            # A copy where the engine hands out parts of arenas that it doubles: it would hold twice what is kept.
            job.carry.put(blocks[0].key, n, state if state.flags.owndata else state.copy())
        accumulate(sums, self._run(f"sums_{n}", job, blocks[0], {f"state_{n}": state}))

    def block_colours(self, job: Job, block: Block, folded: Tensors) -> Array:
        """The decoder's answers [R · W, 3] to one block."""
        last = max(0, self.contract.decoder.statistics_passes - 1)
        kept = job.carry.take(block.key)
        if kept is None and WHOLE in self.sessions:
            return self._run(WHOLE, job, block, {**block.maps(), **folded})["colour"]
        step, state = kept or (0, self._first(job, [block]))
        if step == 0 and LAST_PASS in self.sessions:
            return self._run(LAST_PASS, job, block, {"state_0": state, **folded})["colour"]
        state = self._mixed(job, block, folded, state, range(step, last))
        colours: Array = self._run("tail", job, block, {f"state_{last}": state, **folded})["colour"]
        return colours

    def _state(self, job: Job, blocks: list[Block], folded: Tensors, n: int) -> NDArray[Any]:
        """State `n` of these queries, from the latest one that was kept."""
        step, state = job.carry.take(blocks[0].key) or (0, self._first(job, blocks))
        return self._mixed(job, blocks[0], folded, state, range(step, n))

    def _mixed(self, job: Job, block: Block, folded: Tensors, state: NDArray[Any], blocks: range) -> NDArray[Any]:
        """The state after these attention blocks."""
        for k in blocks:
            state = self._run(f"mix_{k}", job, block, {f"state_{k}": state, **folded})[f"state_{k + 1}"]
        return state

    def _first(self, job: Job, blocks: list[Block]) -> NDArray[Any]:
        states = [self._run(FIRST_STAGE, job, block, block.maps())["state_0"] for block in blocks]
        return states[0] if len(states) == 1 else np.concatenate(states)
