"""SPAN encoder without upsampling (Wan et al. 2023, arXiv 2311.12770), its convolutions re-parameterised.

Attention without parameters: each block's output is weighted by an odd function of its last convolution (equation 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.convolution import convolution


@dataclass(frozen=True)
class SpanConfig:
    """Sizes of a SPAN encoder; the defaults are those of the published SPAN-S."""

    blocks: int = 6
    """Attention blocks of three 3×3 convolutions, at least 2."""
    features: int = 48
    """Channels of every convolution, and of the output."""
    colours: int = 3
    """Number of channels of the picture."""

    def __post_init__(self) -> None:
        for name, least in (("blocks", 2), ("features", 1), ("colours", 1)):
            if getattr(self, name) < least:
                raise CheckpointError(f"SPAN {name} is {getattr(self, name)}: expected at least {least}")


class Span(nn.Module):
    """Picture [B, 3, h, w] (normalised) → features [B, features, h, w], same dtype."""

    size_multiple = 1
    """The picture's sides may be any number of pixels."""

    def __init__(self, config: SpanConfig) -> None:
        super().__init__()
        self.config = config
        width = config.features
        self.out_channels = width
        """Number of channels of the features."""
        self.receptive_field = 3 * config.blocks + 2
        """Pixels that each feature sees to every side (None where there is no bound)."""
        # Three planes are joined at the end; in native code they have whole vectors, as the picture has.
        self.memory_channels = 8 * -(-width // 16) * 16 + 16
        """float32 values per pixel alive at the peak of an inference, an upper estimate."""
        self.conv_1 = convolution(config.colours, width)
        for n in range(config.blocks):
            self.add_module(f"block_{n + 1}", _AttentionBlock(width))
        self.conv_2 = convolution(width, width)
        self.conv_cat = nn.Conv2d(4 * width, width, 1)

    @property
    def output_layer(self) -> nn.Conv2d:
        """The layer that gives the features."""
        return self.conv_cat

    @property
    def input_layer(self) -> nn.Conv2d:
        """The layer that reads the picture."""
        return self.conv_1

    def forward(self, image: Tensor) -> Tensor:
        """Normalised picture [B, 3, h, w] → features [B, features, h, w] of shallow, first, last and deep layers."""
        shallow = self.conv_1(image)
        x, outputs = shallow, []
        inside = shallow
        for n in range(self.config.blocks):
            x, inside = self.get_submodule(f"block_{n + 1}")(x)
            outputs.append(x)
        features: Tensor = self.conv_cat(torch.cat([shallow, self.conv_2(x), outputs[0], inside], dim=1))
        return features


class _AttentionBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = (convolution(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B, C, h, w] to the block's output and to its first activation, both of the same shape."""
        first = nn.functional.silu(self.c1_r(x))
        last = self.c3_r(nn.functional.silu(self.c2_r(first)))
        return (last + x) * (torch.sigmoid(last) - 0.5), first
