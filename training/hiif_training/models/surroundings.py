"""Concatenates the features of a pixel and its eight neighbours, for LIIF, MetaSR and CiaoSR."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import unfold

NEIGHBOURS = 9
"""Number of pixels of 3×3 surroundings, the pixel itself included."""


def surroundings(features: Tensor) -> Tensor:
    """[B, C, h, w] → [B, 9·C, h, w]: channel 9·c + 3·row + column, zero beyond the border."""
    batch, channels, height, width = features.shape
    return unfold(features, 3, padding=1).view(batch, NEIGHBOURS * channels, height, width)
