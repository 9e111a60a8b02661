"""MetaSR as LIIF's authors trained it, the readable reference (arXiv 1903.00875; design/decoders.md).

A network turns a query's position inside its source pixel into a 3×3 filter, which is applied to the features there.
Keys are those of published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.models.arguments import Arguments, configure
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel, ModelTraits, gather
from hiif_training.models.mlp import Mlp
from hiif_training.models.surroundings import NEIGHBOURS, surroundings
from hiif_training.queries.axis import Queries, QueryMaker, axis_queries


@dataclass(frozen=True)
class MetasrConfig:
    """Sizes of the MetaSR decoder."""

    hidden: int = 256
    """Width inside the network; no published argument sets it."""

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise CheckpointError(f"MetaSR hidden width is {self.hidden}: expected at least 1")


def make_metasr(encoder: Encoder, args: Arguments) -> Metasr:
    """Build the model from the published arguments; MetaSR has none beside the encoder."""
    return Metasr(encoder, configure("metasr", MetasrConfig(), args, {}, {}))


class Metasr(ImplicitModel):
    """MetaSR's implicit decoder around an encoder."""

    traits = ModelTraits(skip="none", clips_cell=False)

    def __init__(self, encoder: Encoder, config: MetasrConfig) -> None:
        super().__init__(encoder)
        self.config = config
        self.imnet = Mlp(3, (config.hidden,), 3 * NEIGHBOURS * encoder.out_channels)

    @property
    def make_queries(self) -> QueryMaker:
        """Makes queries of one pixel each, by axis rule `top-left`."""
        return partial(axis_queries, axes="top-left")

    def decode(self, features: Tensor, queries: Queries) -> Tensor:
        """Encoder features [B, C, h, w] → colours [B, N, 3]."""
        pixels = gather(surroundings(features), queries.index[:, :1])[:, 0]
        # The published model derives the scale from the rows alone, also where columns have another.
        scale = (queries.cell[:, None, :1] / 2).expand(*queries.local.shape[:2], 1)
        filters = self.imnet(torch.cat([queries.local, scale], dim=-1).to(features.dtype))
        output: Tensor = (pixels[..., None, :] @ filters.unflatten(-1, (-1, 3)))[..., 0, :]
        return output
