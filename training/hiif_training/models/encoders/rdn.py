"""RDN encoder without upsampling (Zhang et al. 2018, arXiv 1802.08797; keys of the public LIIF code)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.convolution import convolution


@dataclass(frozen=True)
class RdnConfig:
    """Sizes of an RDN encoder; the defaults are the paper's configuration B."""

    blocks: int = 16
    """Residual dense blocks (D in the paper)."""
    layers: int = 8
    """Convolutions in each block (C)."""
    growth: int = 64
    """Channels that each of them adds to the block's input (G)."""
    features: int = 64
    """Channels between the blocks, and of the output (G0)."""
    kernel: int = 3
    """Side of the convolutions' kernel, odd."""
    colours: int = 3
    """Number of channels of the picture."""

    def __post_init__(self) -> None:
        for name in ("blocks", "layers", "growth", "features", "kernel", "colours"):
            if getattr(self, name) < 1:
                raise CheckpointError(f"RDN {name} is {getattr(self, name)}: expected at least 1")
        if self.kernel % 2 == 0:
            raise CheckpointError(f"RDN kernel is {self.kernel}: expected an odd number")


RDN_CONFIGS = {"A": RdnConfig(blocks=20, layers=6, growth=32), "B": RdnConfig()}
"""The paper's two configurations, under the names that public checkpoints give them."""


class Rdn(nn.Module):
    """Picture [B, 3, h, w] (normalised) → features [B, features, h, w], same dtype."""

    output_layer = None
    """No single layer gives the features."""
    size_multiple = 1
    """The picture's sides may be any number of pixels."""

    def __init__(self, config: RdnConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.features
        """Number of channels of the features."""
        self.receptive_field = (config.blocks * config.layers + 3) * (config.kernel // 2)
        """Pixels that each feature sees to every side (None where there is no bound)."""
        dense = config.features + config.layers * config.growth
        self.memory_channels = 2 * (config.blocks * config.features + dense)
        """float32 values per pixel alive at the peak of an inference, an upper estimate."""
        self.SFENet1 = convolution(config.colours, config.features, config.kernel)
        self.SFENet2 = convolution(config.features, config.features, config.kernel)
        self.RDBs = nn.ModuleList(_DenseBlock(config) for _ in range(config.blocks))
        self.GFF = nn.Sequential(
            convolution(config.blocks * config.features, config.features, 1),
            convolution(config.features, config.features, config.kernel),
        )

    @property
    def input_layer(self) -> nn.Conv2d:
        """The layer that reads the picture."""
        return self.SFENet1

    def forward(self, image: Tensor) -> Tensor:
        """Normalised picture [B, 3, h, w] → features [B, features, h, w], with the long skip around all dense
        blocks."""
        shallow: Tensor = self.SFENet1(image)
        x = self.SFENet2(shallow)
        outputs = []
        for block in self.RDBs:
            x = block(x)
            outputs.append(x)
        fused: Tensor = self.GFF(torch.cat(outputs, dim=1))
        return fused + shallow


class _DenseBlock(nn.Module):
    def __init__(self, config: RdnConfig) -> None:
        super().__init__()
        widths = [config.features + n * config.growth for n in range(config.layers + 1)]
        self.convs = nn.Sequential(*(_DenseLayer(w, config.growth, config.kernel) for w in widths[:-1]))
        self.LFF = convolution(widths[-1], config.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, h, w] to the same shape."""
        fused: Tensor = self.LFF(self.convs(x))
        return fused + x


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(convolution(inputs, growth, kernel), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Append `growth` channels to [B, C, h, w]."""
        return torch.cat([x, self.conv(x)], dim=1)
