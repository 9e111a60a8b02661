"""The decoder in stages: what a pass has computed for a query is carried to the next one where memory allows.

Same answers as `decode.Decoder`, its reference twin, up to rounding. State 0 of a query is level 0's activation, state
n + 1 is state n with attention block n applied. A pass starts from the latest state at hand, from nothing if need be.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from hiif_deploy.contract import FIRST_STAGE
from hiif_deploy.decode import Array, Block, Decoder, Job
from hiif_deploy.session import Tensors


class StagedDecoder(Decoder):
    """`Decoder` for bundles with stages."""

    def block_sums(self, job: Job, block: Block, folded: Tensors, n: int) -> Tensors:
        """Pass `n` over one block; its state stays for the next pass."""
        state = self._state(job, block, folded, n)
        if block.key:
            job.carry.put(block.key, n, state)
        return self._run(f"sums_{n}", job, block, {f"state_{n}": state})

    def block_colours(self, job: Job, block: Block, folded: Tensors) -> Array:
        """The decoder's answers [R · W, 3] to one block."""
        last = max(0, self.contract.decoder.statistics_passes - 1)
        state = self._state(job, block, folded, last)
        colours: Array = self._run("tail", job, block, {f"state_{last}": state, **folded})["colour"]
        return colours

    def _state(self, job: Job, block: Block, folded: Tensors, n: int) -> NDArray[Any]:
        """State `n` of a block's queries, from the latest one that was kept."""
        step, state = (job.carry.take(block.key) if block.key else None) or (0, self._first(job, block))
        for k in range(step, n):
            state = self._run(f"mix_{k}", job, block, {f"state_{k}": state, **folded})[f"state_{k + 1}"]
        return state

    def _first(self, job: Job, block: Block) -> NDArray[Any]:
        return self._run(FIRST_STAGE, job, block, block.maps())["state_0"]
