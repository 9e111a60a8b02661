"""A linear layer whose weights are kept as those of a 1×1 convolution, as some published checkpoints have them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear


class Pointwise(nn.Conv2d):
    """[…, inputs] → […, outputs]; the weight is [outputs, inputs, 1, 1]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Rows, as `nn.Linear` takes them."""
        return linear(x, self.weight[:, :, 0, 0], self.bias)
