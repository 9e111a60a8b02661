"""The convolution of which every encoder and up-sampler is made."""

from __future__ import annotations

from torch import nn


def convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """Return a convolution [B, inputs, h, w] → [B, outputs, h, w] with an odd kernel, 0 outside the picture."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
