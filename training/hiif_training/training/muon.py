"""Muon: steps along the orthogonal matrix nearest to the averaged gradient (Jordan 2024, kellerjordan.github.io).

A step changes all directions of a matrix equally, where Adam's mostly follows the few that have large gradients. Its
size is that of Adam's at the same rate (Liu et al. 2025, arXiv 2502.16982, §2.2), so that one schedule serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
"""Share of the average that a step keeps."""
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients of x, x³ and x⁵: five rounds bring singular values of 10⁻³ to 1 into 0.7 to 1.2."""
ROUNDS = 5
ADAM_SIZE = 0.2
"""Root mean square of an entry's change in Adam's steps, in units of the rate (arXiv 2502.16982)."""


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return U·Vᵀ of the singular value decomposition of a matrix [m, n], singular values within 0.7 to 1.2."""
    linear, cubic, quintic = POLYNOMIAL
    # The product of the shorter sides is the smaller one.
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=1e-12)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = linear * x + (cubic * square + quintic * square @ square) @ x
    result: Tensor = x.mT if matrix.shape[0] > matrix.shape[1] else x
    return result


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon trains a weight: matrices and kernels, which are matrices [outputs, inputs·height·width].

    Not vectors, and not the few rows that make a colour.
    """
    return weight.ndim >= 2 and min(weight.flatten(1).shape) > 3


class Muon(torch.optim.Adam):
    """Muon for the groups of parameters that set `muon`, Adam for the others."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters once; return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("muon"):
                self._change_matrices(group)
        super().step()
        return loss

    def _change_matrices(self, group: dict[str, Any]) -> None:
        """Change the group's matrices; without their gradients Adam leaves them alone."""
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                # Adam reads the number of steps of every state that it loads.
                state |= {"step": torch.tensor(0.0), "average": torch.zeros_like(weight)}
            average = state["average"]
            average.lerp_(weight.grad, 1 - MOMENTUM)
            # Nesterov's: the average as it would be after the same gradient again.
            direction = weight.grad.lerp(average, MOMENTUM).flatten(1)
            size = ADAM_SIZE * max(direction.shape) ** 0.5
            weight.add_(orthogonalised(direction).view_as(weight), alpha=-group["lr"] * size)
            weight.grad = None
