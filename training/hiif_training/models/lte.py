"""LTE and LTE+, the readable reference (arXiv 2111.08918; design/decoders.md). Keys are those of published checkpoints.

Each of the four source pixels around a query has amplitudes and frequencies of its own; the waves at the query's
position go into a network that predicts the colour, and predictions are averaged by area.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.arguments import Arguments, configure, part_arguments
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel, gather
from hiif_training.models.mlp import Mlp, Pointwise
from hiif_training.queries.axis import Queries, QueryMaker, axis_queries


@dataclass(frozen=True)
class LteConfig:
    """Sizes of the LTE decoder."""

    width: int = 256
    """Amplitudes of a pixel: half for cosines, half for sines. Published as `hidden_dim`."""
    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the network's hidden layers."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise CheckpointError(f"LTE hidden_dim is {self.width}: expected an even number")
        if not self.hidden or min(self.hidden) < 1:
            raise CheckpointError(f"LTE hidden widths are {self.hidden}: expected at least one, each at least 1")


def make_lte(encoder: Encoder, args: Arguments) -> Lte:
    """Build the model from the published arguments, those of `imnet_spec` included."""
    args = dict(args)
    network = part_arguments("lte", args.pop("imnet_spec", None), "mlp")
    base = configure("lte", LteConfig(), args, {"hidden_dim": "width"}, {})
    return Lte(encoder, configure("imnet_spec of lte", base, network, {"hidden_list": "hidden"}, {"out_dim": (3,)}))


def make_lte_plus(encoder: Encoder, args: Arguments) -> LtePlus:
    """Build the model from the published arguments; `hidden_dim` determines all widths of the network."""
    config = configure("lte-plus", LteConfig(), args, {"hidden_dim": "width"}, {})
    return LtePlus(encoder, LteConfig(config.width, (config.width,) * 3))


class Waves(ImplicitModel):
    """Implicit decoder around an encoder; the part that LTE and LTE+ share."""

    def __init__(self, encoder: Encoder, config: LteConfig) -> None:
        super().__init__(encoder)
        self.config = config
        self.coef = nn.Conv2d(encoder.out_channels, config.width, 3, padding=1)
        self.freq = nn.Conv2d(encoder.out_channels, config.width, 3, padding=1)
        self.phase = nn.Linear(2, config.width // 2, bias=False)

    @property
    @abstractmethod
    def network(self) -> nn.Sequential:
        """Layers from waves to the colour: linear layers with a ReLU between them."""

    @property
    @abstractmethod
    def frequency_order(self) -> Tensor:
        """Return the channels [width] of `freq` in the order all row frequencies, all column frequencies."""

    @property
    def make_queries(self) -> QueryMaker:
        """Makes queries of four corners."""
        return axis_queries

    def decode(self, features: Tensor, queries: Queries) -> Tensor:
        """Encoder features [B, C, h, w] → colours [B, N, 3] without the skip."""
        amplitude = gather(self.coef(features), queries.index)
        frequency = gather(self.freq(features)[:, self.frequency_order], queries.index)
        row, column = frequency.chunk(2, dim=-1)
        relative = queries.relative.to(features.dtype)
        angle = row * relative[..., :1] + column * relative[..., 1:]
        angle = math.pi * (angle + self.phase(queries.cell.to(features.dtype))[:, None, None])
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1)
        colours = self.network(amplitude * waves)
        output: Tensor = (colours * queries.weight[..., None].to(features.dtype)).sum(1)
        return output


class Lte(Waves):
    """LTE: row and column frequencies alternate among the channels."""

    def __init__(self, encoder: Encoder, config: LteConfig) -> None:
        super().__init__(encoder, config)
        self.imnet = Mlp(config.width, config.hidden, 3)

    @property
    def network(self) -> nn.Sequential:
        """The layers of `imnet`, as in the published checkpoints."""
        return self.imnet.layers

    @property
    def frequency_order(self) -> Tensor:
        """Return even channels before odd ones, [width]."""
        return torch.arange(self.config.width).reshape(-1, 2).T.flatten()


class LtePlus(Waves):
    """LTE+: row frequencies stand before column frequencies, and the network's layers are 1×1 convolutions."""

    def __init__(self, encoder: Encoder, config: LteConfig) -> None:
        super().__init__(encoder, config)
        widths = [config.width, *config.hidden]
        layers: list[nn.Module] = []
        for before, after in zip(widths, config.hidden, strict=False):
            layers += [Pointwise(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, Pointwise(widths[-1], 3))

    @property
    def network(self) -> nn.Sequential:
        """The 1×1 convolutions of `layers`, as in the published checkpoints."""
        return self.layers

    @property
    def frequency_order(self) -> Tensor:
        """Return the channels [width] unchanged."""
        return torch.arange(self.config.width)
