"""A linear layer whose weights are stored as those of a 1×1 convolution, as in some published checkpoints."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear


class Pointwise(nn.Conv2d):
    """Linear layer over the last dimension; the weight is [outputs, inputs, 1, 1]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs], as `nn.Linear` does."""
        return linear(x, self.weight[:, :, 0, 0], self.bias)
