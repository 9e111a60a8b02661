"""CLIT, the readable reference (arXiv 2303.16513). Keys are those of published checkpoints.

Each query attends to the pixels around it, and the weighted values of all of them, not their sum, go into a network.
Large scales are decoded in stages: each reads features four times larger and adds a share of the previous stage's
output. One stage alone is what the public configurations call LIT.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from hiif_deploy.errors import CheckpointError
from hiif_deploy.geometry.grid import pixel_centres
from hiif_training.models.arguments import Accepted, Arguments, configure, part_arguments
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel, ModelTraits, gather
from hiif_training.models.mlp import ACTIVATIONS, Mlp
from hiif_training.queries.axis import QueryMaker
from hiif_training.queries.clit import ClitQueries, StageQueries, clit_queries

MEMORY = 0.75
"""Share of a stage's output that the next stage adds to its own."""


@dataclass(frozen=True)
class ClitConfig:
    """Sizes of the CLIT decoder."""

    width: int = 256
    """Channels of queries, keys and values. Published as `base_dim`."""
    heads: int = 8
    """Heads of the local attention; divides `width`. Published as `head`."""
    reach: int = 3
    """Pixels to every side of the nearest one that the attention covers. Published as `r`."""
    stages: int = 1
    """Number of stages. Published as `imnet_num` and `conv_num`."""
    frequencies: int = 16
    """Waves per axis of the position code. Published as `enc_dims`, which is four times this."""
    octaves: float = 10.0
    """The fastest wave is 2^octaves − 1. Published as `posenc_scale`."""
    hidden: tuple[int, ...] = (256, 256, 256, 256)
    """Widths inside each stage's network."""
    activation: str = "relu"
    """Activation between the network's layers: `relu`, or `gelu` as in the published configurations."""

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.stages, self.frequencies, *self.hidden) < 1 or self.reach < 0:
            raise CheckpointError(f"CLIT sizes out of range: {self}")
        if not self.hidden:
            raise CheckpointError("CLIT hidden widths are empty: expected at least one")
        if self.width % self.heads:
            raise CheckpointError(f"CLIT width {self.width} is not a multiple of {self.heads} heads")
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(f"CLIT activation {self.activation!r}: expected {' or '.join(ACTIVATIONS)}")

    @property
    def tokens(self) -> int:
        """Pixels that a query attends to."""
        return (2 * self.reach + 1) ** 2


_FIELDS = {"base_dim": "width", "head": "heads", "r": "reach", "imnet_num": "stages"}
_FIXED: Accepted = {"is_cell": (True,), "local_attn": (True,)}
_CODE_FIELDS = {"enc_dims": "frequencies", "posenc_scale": "octaves"}
_CODE_FIXED: Accepted = {"posenc_type": ("sinusoid",), "gamma": (1,), "hidden_dims": None}


def make_clit(encoder: Encoder, args: Arguments) -> Clit:
    """Build the model from the published arguments, those of its parts included."""
    args = dict(args)
    code = part_arguments("clit", args.pop("pb_spec", None), "posenc")
    network = part_arguments("clit", args.pop("imnet_spec", None), "mlp")
    # The public class has base_dim 192 where its arguments say nothing.
    base = ClitConfig(width=192)
    if args.pop("conv_num", args.get("imnet_num", base.stages)) != args.get("imnet_num", base.stages):
        raise CheckpointError("clit: conv_num and imnet_num differ: expected one network and one convolution per stage")
    base = configure("clit", base, args, _FIELDS, _FIXED)
    if isinstance(waves := code.get("enc_dims"), int):
        code["enc_dims"] = waves // 4
    base = configure("pb_spec of clit", base, code, _CODE_FIELDS, _CODE_FIXED)
    fields = {"hidden_list": "hidden", "act": "activation"}
    return Clit(encoder, configure("imnet_spec of clit", base, network, fields, {"out_dim": (3,)}))


class Clit(ImplicitModel):
    """CLIT's implicit decoder around an encoder."""

    traits = ModelTraits(clips_cell=False)

    def __init__(self, encoder: Encoder, config: ClitConfig) -> None:
        super().__init__(encoder)
        self.config = config
        width, stages = config.width, range(config.stages)
        self.conv_ch = _conv3(encoder.out_channels, width)
        self.conv_qs = nn.ModuleList(_conv3(width, width) for _ in stages)
        self.conv_ks = nn.ModuleList(_conv3(width, width) for _ in stages)
        self.conv_vs = nn.ModuleList(_conv3(width, width) for _ in stages)
        self.pb_encoder = PositionBias(config)
        inputs = config.tokens * width + 2
        self.imnets = nn.ModuleList(Mlp(inputs, config.hidden, 3, config.activation) for _ in stages)

    @property
    def make_queries(self) -> QueryMaker:
        """Makes the queries of axis rule `clit` for every stage."""
        return partial(clit_queries, stages=self.config.stages, reach=self.config.reach)

    def encode(self, image: Tensor) -> Tensor:
        """Normalised picture [B, 3, h, w] → features [B, width, h, w], from which every stage samples its own."""
        features: Tensor = self.conv_ch(self.encoder(image))
        return features

    def decode(self, features: Tensor, queries: ClitQueries) -> Tensor:
        """Output of `encode` [B, width, h, w] → colours [B, N, 3] of the last stage, without the skip."""
        return self.decode_stages(features, queries)[-1]

    def decode_stages(self, features: Tensor, queries: ClitQueries) -> list[Tensor]:
        """Features [B, width, h, w] → colours [B, N, 3] of every stage, each with its share of the previous one."""
        outputs = list[Tensor]()
        for n, stage in enumerate(queries.stages):
            output = self.imnets[n](self.attend(stage_features(features, stage.size), n, stage))
            outputs.append(output + MEMORY * outputs[-1] if outputs else output)
        return outputs

    def attend(self, maps: Tensor, stage: int, queries: StageQueries) -> Tensor:
        """A stage's features [B, width, h, w] → [B, N, T·width + 2]: every token's weighted value, and the cell."""
        query = gather(self.conv_qs[stage](maps), queries.query_index)
        query = (query * queries.query_weight[..., None].to(maps.dtype)).sum(1, keepdim=True)
        inside = queries.inside[..., None].to(maps.dtype)
        key = gather(self.conv_ks[stage](maps), queries.index) * inside
        value = gather(self.conv_vs[stage](maps), queries.index) * inside
        heads, size = self.config.heads, self.config.width // self.config.heads
        batch, tokens, count, _ = key.shape
        score = (query * key).view(batch, tokens, count, heads, size).sum(-1) / size**0.5
        weight = (score + self.pb_encoder(queries.relative.to(maps.dtype))).softmax(1)
        weighted = value.view(batch, tokens, count, heads, size) * weight[..., None]
        rows = weighted.transpose(1, 2).reshape(batch, count, -1)
        cell = queries.cell[:, None, :].expand(batch, count, 2)
        return torch.cat([rows, cell.to(maps.dtype)], dim=-1)


class PositionBias(nn.Module):
    """Position term of each head's attention score: a weighted sum of waves of the relative position."""

    def __init__(self, config: ClitConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Linear(4 * config.frequencies, config.heads)

    def forward(self, relative: Tensor) -> Tensor:
        """[…, 2] (row, column) → […, heads]; waves are ordered sines of row, of column, cosines of row, of column."""
        angle = (relative[..., None] * self.waves().to(relative)).flatten(-2)
        bias: Tensor = self.proj(torch.cat([angle.sin(), angle.cos()], dim=-1))
        return bias

    def waves(self) -> Tensor:
        """[frequencies] float32: 2^e − 1 for exponents evenly from 0 to `octaves`."""
        return 2.0 ** torch.linspace(0, self.config.octaves, self.config.frequencies) - 1


def stage_features(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] → [B, C, *size]: bilinear between pixel centres, falling to zero beyond the outer ones."""
    if size == tuple(maps.shape[2:]):
        return maps
    centres = [torch.from_numpy(pixel_centres(n, np.arange(n))).to(maps) for n in size]
    rows, columns = torch.meshgrid(*centres, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).expand(maps.shape[0], -1, -1, -1)
    return grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
