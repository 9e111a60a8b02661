"""CiaoSR's non-local branch: reconstructs every pixel from patches of the same picture that are similar at half its
size.

Mei et al., CSNLN (arXiv 2006.01424), as CiaoSR (arXiv 2212.04362) uses it. Cost and memory grow with the square of the
picture's area: L = h·w / 4 patches are compared at every pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, fold, pad, unfold

SCALE = 2
"""Factor by which the picture is shrunk for the comparison, and by which the patches are larger."""
MATCH = 3
"""Side of the patches that are compared."""
SHARPNESS = 10.0
"""Factor on the likeness before the softmax over all patches."""
OVERLAP = 6.0
"""Divisor of the output, in which patches of twice the size overlap."""


class CrossScaleAttention(nn.Module):
    """Features [B, C, h, w] → [B, C, h, w], each pixel depending on all of them; C is even. Keys as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_match_1 = _projection(channels, channels // 2)
        self.conv_match_2 = _projection(channels, channels // 2)
        self.conv_assembly = _projection(channels, channels)
        self.down = nn.Conv2d(channels, channels, MATCH, stride=SCALE, padding=1)
        self.register_buffer("escape_NaN", torch.tensor([1e-4]))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, C, h, w] → [B, C, h, w], in the published order.

        Match, reassemble twice as large, shrink by `down`, divide by `OVERLAP`.
        """
        height, width = features.shape[2:]
        even = pad_even(features)
        likeness = self.likeness(even)
        patches = unfold(self.conv_assembly(even), SCALE * MATCH, padding=SCALE, stride=SCALE)
        size = (SCALE * even.shape[2], SCALE * even.shape[3])
        large = fold(patches @ likeness, size, SCALE * MATCH, padding=SCALE, stride=SCALE)
        output: Tensor = self.down(large) / OVERLAP
        return output[:, :, :height, :width]

    def likeness(self, even: Tensor) -> Tensor:
        """Return the softmax [B, L, h·w] over the L patches of the shrunk picture, per pixel; `even` [B, C, h, w] has
        even sides."""
        queries = unfold(self.conv_match_1(even), MATCH, padding=1)
        keys = unfold(self.conv_match_2(avg_pool2d(even, SCALE)), MATCH, padding=1)
        norm = torch.maximum(keys.square().sum(1, keepdim=True).sqrt(), self.get_buffer("escape_NaN"))
        return ((keys / norm).transpose(1, 2) @ queries * SHARPNESS).softmax(1)


def pad_even(features: Tensor) -> Tensor:
    """Pad odd sides of [B, C, h, w] to even ones with the mirrored last-but-one line.

    A side of one pixel has no such line and repeats itself; the public code cannot process one.
    """
    for axis, odd in ((2, (0, 0, 0, 1)), (3, (0, 1, 0, 0))):
        size = features.shape[axis]
        if size % SCALE:
            features = pad(features, odd, "reflect" if size > 1 else "replicate")
    return features


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.PReLU())
