"""Layers of the decoders' networks: the family's multi-layer perceptron, and a linear layer stored as a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import linear

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
"""Published name → activation module."""


class Mlp(nn.Module):
    """Linear layers over the last dimension with an activation between them. Keys `layers.{0,2,4,…}`."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, activation: str = "relu") -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        y: Tensor = self.layers(x)
        return y


class Pointwise(nn.Conv2d):
    """Linear layer over the last dimension; the weight is [outputs, inputs, 1, 1], as some published ones are."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs], as `nn.Linear` does."""
        return linear(x, self.weight[:, :, 0, 0], self.bias)
