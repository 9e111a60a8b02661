"""CiaoSR, the readable reference (arXiv 2212.04362). Keys are those of published checkpoints, with `encoder.` in front
of the encoder's.

Each query attends to the four pixels around it: keys and values are the features' 3×3 surroundings, scaled by networks
that read position and cell; a softmax over the four weights the values. Colours are in the domain of the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.models.arguments import Accepted, Arguments, configure
from hiif_training.models.cross_scale_attention import CrossScaleAttention
from hiif_training.models.encoders.edsr import DIV2K_MEAN
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel, ModelTraits, gather
from hiif_training.models.mlp import Mlp
from hiif_training.models.surroundings import NEIGHBOURS, surroundings
from hiif_training.queries.axis import QueryMaker
from hiif_training.queries.ciaosr import CiaosrQueries, ciaosr_queries

POSITION = 4
"""Position values per query: relative row and column, cell height and width."""


@dataclass(frozen=True)
class CiaosrConfig:
    """Sizes and variants of the CiaoSR decoder."""

    hidden: tuple[int, ...] = (256, 256, 256, 256)
    """Widths inside each of the three networks."""
    non_local: bool = True
    """Values include the output of the non-local branch, which needs an even number of encoder channels."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise CheckpointError(f"CiaoSR hidden widths are {self.hidden}: expected at least one, each at least 1")


_FIELDS = {"hidden_list": "hidden", "non_local_attn": "non_local"}
_FIXED: Accepted = {
    "local_size": (2,),
    "feat_unfold": (True,),
    "multi_scale": ([2],),
    "softmax_scale": (1,),
    "eval_bsize": None,
}


def make_ciaosr(encoder: Encoder, args: Arguments) -> Ciaosr:
    """Build the model from the published arguments."""
    return Ciaosr(encoder, configure("ciaosr", CiaosrConfig(), args, _FIELDS, _FIXED))


class Ciaosr(ImplicitModel):
    """CiaoSR's implicit decoder around an encoder."""

    traits = ModelTraits(mean=DIV2K_MEAN, std=(1.0, 1.0, 1.0), clips_cell=False)

    def __init__(self, encoder: Encoder, config: CiaosrConfig) -> None:
        super().__init__(encoder)
        self.config = config
        channels = encoder.out_channels
        if config.non_local and channels % 2:
            raise CheckpointError(f"CiaoSR's non-local branch halves {channels} channels: expected an even number")
        keys = NEIGHBOURS * channels
        values = keys + channels if config.non_local else keys
        self.imnet_q = Mlp(values, config.hidden, 3)
        self.imnet_k = Mlp(keys + POSITION, config.hidden, keys)
        self.imnet_v = Mlp(values + POSITION, config.hidden, values)
        if config.non_local:
            self.cs_attn = CrossScaleAttention(channels)

    @property
    def make_queries(self) -> QueryMaker:
        """Makes the queries of axis rule `ciaosr`."""
        return ciaosr_queries

    def encode(self, image: Tensor) -> Tensor:
        """Normalised picture [B, 3, h, w] → features [B, C, h, w], or [B, 2·C, h, w] with the non-local branch's last.

        The branch is part of the encoder because it needs the whole picture.
        """
        features: Tensor = self.encoder(image)
        return torch.cat([features, self.cs_attn(features)], dim=1) if self.config.non_local else features

    def decode(self, features: Tensor, queries: CiaosrQueries) -> Tensor:
        """Output of `encode` [B, C (+ C), h, w] → colours [B, N, 3] without the skip."""
        local, other = features.tensor_split([self.encoder.out_channels], dim=1)
        keys = surroundings(local)
        values = torch.cat([keys, other], dim=1)
        nearest = gather(keys, queries.nearest)
        key, value = gather(keys, queries.index), gather(values, queries.index)
        position = self._position(queries).to(features.dtype)
        key = key * self.imnet_k(torch.cat([key, position], dim=-1))
        value = value * self.imnet_v(torch.cat([value, position], dim=-1))
        weight = (nearest * key).sum(-1, keepdim=True).softmax(1)
        colours: Tensor = self.imnet_q((weight * value).sum(1))
        return colours

    @staticmethod
    def _position(queries: CiaosrQueries) -> Tensor:
        """Return [B, 4, N, 4]: the query's position relative to each pixel, and the cell."""
        cell = queries.cell[:, None, None, :].expand(*queries.relative.shape)
        return torch.cat([queries.relative, cell], dim=-1)
