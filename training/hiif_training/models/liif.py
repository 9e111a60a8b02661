"""LIIF, the readable reference (arXiv 2012.09161; design/decoders.md). Keys are those of published checkpoints.

Each of the four source pixels around a query predicts its colour from the pixel's features, the query's position and
the cell; the predictions are averaged by area.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.models.arguments import Accepted, Arguments, configure, part_arguments
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel, ModelTraits, gather
from hiif_training.models.mlp import Mlp
from hiif_training.models.surroundings import NEIGHBOURS, surroundings
from hiif_training.queries.axis import Queries, QueryMaker, axis_queries


@dataclass(frozen=True)
class LiifConfig:
    """Sizes and variants of the LIIF decoder."""

    hidden: tuple[int, ...] = (256, 256, 256, 256)
    """Widths of the network's hidden layers."""
    unfold: bool = True
    """The features of a pixel are those of its 3×3 surroundings. Published as `feat_unfold`."""
    cell: bool = True
    """The network reads the size of the output pixel. Published as `cell_decode`."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise CheckpointError(f"LIIF hidden widths are {self.hidden}: expected at least one, each at least 1")


_FIELDS = {"feat_unfold": "unfold", "cell_decode": "cell"}
_FIXED: Accepted = {"local_ensemble": (True,)}


def make_liif(encoder: Encoder, args: Arguments) -> Liif:
    """Build the model from the published arguments, those of `imnet_spec` included."""
    args = dict(args)
    network = part_arguments("liif", args.pop("imnet_spec", None), "mlp")
    base = configure("liif", LiifConfig(), args, _FIELDS, _FIXED)
    return Liif(encoder, configure("imnet_spec of liif", base, network, {"hidden_list": "hidden"}, {"out_dim": (3,)}))


class Liif(ImplicitModel):
    """LIIF's implicit decoder around an encoder."""

    traits = ModelTraits(skip="none", clips_cell=False)

    def __init__(self, encoder: Encoder, config: LiifConfig) -> None:
        super().__init__(encoder)
        self.config = config
        features = encoder.out_channels * (NEIGHBOURS if config.unfold else 1)
        self.imnet = Mlp(features + (4 if config.cell else 2), config.hidden, 3)

    @property
    def make_queries(self) -> QueryMaker:
        """Makes queries of four corners."""
        return axis_queries

    def decode(self, features: Tensor, queries: Queries) -> Tensor:
        """Encoder features [B, C, h, w] → colours [B, N, 3]."""
        corners = gather(surroundings(features) if self.config.unfold else features, queries.index)
        inputs = [corners, queries.relative.to(features.dtype)]
        if self.config.cell:
            inputs.append(queries.cell[:, None, None, :].expand(*queries.relative.shape).to(features.dtype))
        colours = self.imnet(torch.cat(inputs, dim=-1))
        output: Tensor = (colours * queries.weight[..., None].to(features.dtype)).sum(1)
        return output
