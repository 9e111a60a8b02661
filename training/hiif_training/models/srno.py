"""SRNO, the readable reference (arXiv 2303.04913; design/decoders.md). Keys are those of published checkpoints.

The four source pixels around a query enter one row, weighted by area; two Galerkin attentions average over all queries
of one call, so a call must hold every query that belongs together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from hiif_deploy.errors import CheckpointError
from hiif_training.models.arguments import Arguments, configure
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel, gather
from hiif_training.models.mlp import Pointwise
from hiif_training.queries.axis import Queries, QueryMaker, axis_queries

EPSILON = 1e-5
"""Added to the standard deviation, outside the root."""
POSITION = 8
"""Position values per query: relative row and column of each corner."""


@dataclass(frozen=True)
class SrnoConfig:
    """Sizes of the SRNO decoder."""

    width: int = 256
    """Width of the rows that the layers process."""
    heads: int = 16
    """Heads of the attention; divides `width`. Published as `blocks`."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 2 * self.heads or self.width % self.heads:
            raise CheckpointError(f"SRNO width {self.width}: expected a multiple of {self.heads} heads, 2 each or more")


def make_srno(encoder: Encoder, args: Arguments) -> Srno:
    """Build the model from the published arguments; `blocks` are the heads."""
    return Srno(encoder, configure("sronet", SrnoConfig(), args, {"width": "width", "blocks": "heads"}, {}))


class Srno(ImplicitModel):
    """SRNO's implicit decoder around an encoder."""

    def __init__(self, encoder: Encoder, config: SrnoConfig) -> None:
        super().__init__(encoder)
        self.config = config
        self.conv00 = Pointwise(POSITION + 4 * encoder.out_channels + 2, config.width)
        self.conv0 = GalerkinAttention(config.width, config.heads)
        self.conv1 = GalerkinAttention(config.width, config.heads)
        self.fc1 = Pointwise(config.width, config.width)
        self.fc2 = Pointwise(config.width, 3)

    @property
    def make_queries(self) -> QueryMaker:
        """Makes queries of four corners."""
        return axis_queries

    def decode(self, features: Tensor, queries: Queries) -> Tensor:
        """Encoder features [B, C, h, w] → colours [B, N, 3] without the skip."""
        x = self.conv00(self.query_input(features, queries))
        x = self.conv1(self.conv0(x))
        colours: Tensor = self.fc2(gelu(self.fc1(x)))
        return colours

    def query_input(self, features: Tensor, queries: Queries) -> Tensor:
        """Return [B, N, 8 + 4·C + 2]: corners' relative coordinates, their weighted features, and the cell."""
        corners = gather(features, queries.index) * queries.weight[..., None].to(features.dtype)
        cell = queries.cell[:, None, :].expand(-1, corners.shape[2], 2)
        parts = [*queries.relative.to(features.dtype).unbind(1), *corners.unbind(1), cell.to(features.dtype)]
        return torch.cat(parts, dim=-1)


class GalerkinAttention(nn.Module):
    """Softmax-free attention whose KᵀV is averaged over all queries of the call."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = Pointwise(width, 3 * width)
        self.kln = HeadNorm(heads, width // heads)
        self.vln = HeadNorm(heads, width // heads)
        self.o_proj1 = Pointwise(width, width)
        self.o_proj2 = Pointwise(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] → [B, N, width]."""
        batch, count, width = x.shape
        qkv = self.qkv_proj(x).reshape(batch, count, self.heads, 3 * (width // self.heads)).transpose(1, 2)
        query, key, value = qkv.chunk(3, dim=-1)
        average = self.kln(key).transpose(-2, -1) @ self.vln(value) / count
        attended = (query @ average).transpose(1, 2).reshape(batch, count, width)
        mixed: Tensor = self.o_proj2(gelu(self.o_proj1(attended + x)))
        return x + mixed


class HeadNorm(nn.Module):
    """LayerNorm of each head with its own scale and shift; divides by the unbiased deviation plus `EPSILON`."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, size))
        self.bias = nn.Parameter(torch.zeros(heads, 1, size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, heads, N, size] over the last dimension; the shape is kept."""
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.std(-1, keepdim=True) + EPSILON) * self.weight + self.bias
