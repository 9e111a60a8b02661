"""EDSR encoder without upsampling (Lim et al. 2017, arXiv 1707.02921; keys of the public LIIF code)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.convolution import convolution

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean red, green and blue of DIV2K's training pictures, 1 being white."""


@dataclass(frozen=True)
class EdsrConfig:
    """Sizes of an EDSR encoder."""

    blocks: int = 16
    """Residual blocks of two 3×3 convolutions."""
    features: int = 64
    """Channels of every convolution, and of the output."""
    residual_scale: float = 1.0
    """Factor on each residual branch."""
    colours: int = 3
    """Number of channels of the picture."""

    def __post_init__(self) -> None:
        for name in ("blocks", "features", "colours"):
            if getattr(self, name) < 1:
                raise CheckpointError(f"EDSR {name} is {getattr(self, name)}: expected at least 1")
        if self.colours > 3:
            raise CheckpointError(f"EDSR colours is {self.colours}: expected 1 to 3")


class Edsr(nn.Module):
    """Picture [B, 3, h, w] (normalised) → features [B, features, h, w], same dtype."""

    output_layer = None
    """No single layer gives the features."""
    size_multiple = 1
    """The picture's sides may be any number of pixels."""

    def __init__(self, config: EdsrConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.features
        """Number of channels of the features."""
        self.receptive_field = 2 * config.blocks + 2
        """Pixels that each feature sees to every side (None where there is no bound)."""
        # In native code five planes of whole vectors, and the picture's.
        self.memory_channels = max(6 * config.features, 5 * -(-config.features // 16) * 16 + 16)
        """float32 values per pixel alive at the peak of an inference, an upper estimate."""
        self.sub_mean = _mean_shift(config.colours, -1)
        self.add_mean = _mean_shift(config.colours, +1)
        self.head = nn.Sequential(convolution(config.colours, config.features))
        blocks = [_ResidualBlock(config.features, config.residual_scale) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks, convolution(config.features, config.features))

    @property
    def input_layer(self) -> nn.Conv2d:
        """The layer that reads the picture."""
        layer = self.head[0]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def forward(self, image: Tensor) -> Tensor:
        """Normalised picture [B, 3, h, w] → features [B, features, h, w], with the long skip around all residual
        blocks."""
        shallow: Tensor = self.head(image)
        deep: Tensor = self.body(shallow)
        return shallow + deep


class _ResidualBlock(nn.Module):
    def __init__(self, features: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(convolution(features, features), nn.ReLU(), convolution(features, features))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        branch: Tensor = self.body(x)
        return x + (branch if self.scale == 1 else branch * self.scale)


def _mean_shift(colours: int, sign: int) -> nn.Conv2d:
    """Return a layer that every published checkpoint contains and no forward pass uses (design/model.md C1).

    What it does is part of the normalisation (`ModelTraits`) of those models that were trained with it.
    """
    shift = nn.Conv2d(colours, colours, 1)
    mean = torch.tensor(DIV2K_MEAN)[:colours]
    with torch.no_grad():
        nn.init.dirac_(shift.weight)
        shift.bias.copy_(sign * mean)  # type: ignore[union-attr]
    return shift.requires_grad_(False)
