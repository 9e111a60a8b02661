"""Features of a pixel and of the eight around it, as one vector: what LIIF, MetaSR and CiaoSR read."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import unfold

NEIGHBOURS = 9
"""Pixels of 3×3 surroundings, the pixel itself included."""


def surroundings(features: Tensor) -> Tensor:
    """[B, C, h, w] → [B, 9·C, h, w]: channel 9·c + 3·row + column, zero beyond the border."""
    batch, channels, height, width = features.shape
    return unfold(features, 3, padding=1).view(batch, NEIGHBOURS * channels, height, width)
