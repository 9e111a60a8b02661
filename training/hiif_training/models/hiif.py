"""HIIF, the readable reference (arXiv 2412.03748; design/model.md H1–H10). Keys are those of published checkpoints.

Linear attention averages over all queries of one call, so a call must hold every query that belongs together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_deploy.geometry.grid import BitRule
from hiif_training.models.arguments import Arguments, configure
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.implicit import ImplicitModel, gather
from hiif_training.queries.axis import Queries, QueryMaker, axis_queries

Hierarchy = Literal["levels", "coordinates", "once"]
"""Position values of each level: its own two bits (the paper's model); the plain local coordinate at every level
(ablation v1-H); all bits at level 0 and none afterwards (ablation v2-MS)."""


@dataclass(frozen=True)
class HiifConfig:
    """Sizes and variants of the HIIF decoder."""

    heads: int = 16
    """Heads of the linear attention; divides `hidden_dim`. Published as `blocks`."""
    hidden_dim: int = 256
    """Width of the features after `freq` and of every level's output."""
    mlp_dim: int = 256
    """Width inside each level. The public code fixes it to 256, whatever `hidden_dim` is."""
    levels: int = 6
    """Levels of the hierarchy, at least 2; the last one gives the colour."""
    attention_blocks: int = 2
    """Attention blocks after level 0; 0 is ablation v3-MH."""
    projections: int = 2
    """Linear layers in an attention block: 2 (public code) or 1 (its earlier version)."""
    hierarchy: Hierarchy = "levels"
    """Which position values each level reads."""
    bits: BitRule = "exact"
    """Rule by which the bits are computed; published checkpoints need `reference`."""

    def __post_init__(self) -> None:
        if self.levels < 2 or self.attention_blocks < 0 or min(self.heads, self.hidden_dim, self.mlp_dim) < 1:
            raise CheckpointError(f"HIIF sizes out of range: {self}")
        if self.hidden_dim % self.heads:
            raise CheckpointError(f"HIIF hidden_dim {self.hidden_dim} is not a multiple of {self.heads} heads")
        if self.projections not in (1, 2):
            raise CheckpointError(f"HIIF projections is {self.projections}: expected 1 or 2")
        for name, allowed in (("hierarchy", get_args(Hierarchy)), ("bits", get_args(BitRule))):
            if getattr(self, name) not in allowed:
                raise CheckpointError(f"HIIF {name} {getattr(self, name)!r}: expected one of {allowed}")

    def position_width(self, level: int) -> int:
        """Return how many position values a level reads."""
        if self.hierarchy == "once":
            return 2 * self.levels if level == 0 else 0
        return 2


def make_hiif(encoder: Encoder, args: Arguments) -> Hiif:
    """Build the model from the published arguments; `blocks` are the heads."""
    names = {("blocks" if f.name == "heads" else f.name): f.name for f in fields(HiifConfig)}
    # The public code has no other rule: a spec that names none was trained with these bits.
    return Hiif(encoder, configure("hiif", HiifConfig(bits="reference"), args, names, {}))


class Hiif(ImplicitModel):
    """HIIF's implicit decoder around an encoder."""

    def __init__(self, encoder: Encoder, config: HiifConfig) -> None:
        super().__init__(encoder)
        self.config = config
        width = config.hidden_dim
        self.freq = nn.Conv2d(encoder.out_channels, width, 3, padding=1)
        inputs = [4 * width + 2] + [width] * (config.levels - 1)
        outputs = [width] * (config.levels - 1) + [3]
        self.fc_layers = nn.ModuleList(
            Level(inputs[n] + config.position_width(n), config.mlp_dim, outputs[n]) for n in range(config.levels)
        )
        for n in range(config.attention_blocks):
            self.add_module(f"conv{n}", LinearAttention(width, config.heads, config.projections))

    @property
    def attention(self) -> list[LinearAttention]:
        """Attention blocks in order (`conv0`, `conv1`, … in the state dict)."""
        blocks = (self.get_submodule(f"conv{n}") for n in range(self.config.attention_blocks))
        return [block for block in blocks if isinstance(block, LinearAttention)]

    @property
    def output_layer(self) -> nn.Linear:
        """The second product of the last level."""
        last = self.fc_layers[-1]
        assert isinstance(last, Level)
        return last.fc2

    @property
    def make_queries(self) -> QueryMaker:
        """Makes queries of four corners with the configured levels and bits."""
        return partial(axis_queries, levels=self.config.levels, bits=self.config.bits)

    def decode(self, features: Tensor, queries: Queries) -> Tensor:
        """Encoder features [B, C, h, w] → colours [B, N, 3] without the skip (H1, H6–H9)."""
        return self.decode_inputs(self.query_input(self.freq(features), queries), queries)

    def decode_inputs(self, x: Tensor, queries: Queries) -> Tensor:
        """Output of `query_input` [B, N, 4·width + 2] → colours [B, N, 3] without the skip (H7–H9)."""
        for n, level in enumerate(self.fc_layers):
            # Under autocast x is bf16; joined with fp32, both would be copied to fp32 and back.
            x = level(torch.cat([x, self.position(queries, n).to(x.dtype)], dim=-1))
            if n == 0:
                for attention in self.attention:
                    x = attention(x)
        return x

    def query_input(self, maps: Tensor, queries: Queries) -> Tensor:
        """Return [B, N, 4·width + 2]: each corner's features times its area weight, and the cell (H6); maps [B, width,
        h, w]."""
        corners = gather(maps, queries.index) * queries.weight[..., None].to(maps.dtype)
        batch, _, count, _ = corners.shape
        cell = queries.cell[:, None, :].expand(batch, count, 2)
        return torch.cat([*corners.unbind(1), cell.to(maps.dtype)], dim=-1)

    def position(self, queries: Queries, level: int) -> Tensor:
        """Return the position values [B, N, position_width(level)] that this level reads."""
        if self.config.hierarchy == "coordinates":
            return queries.local
        if self.config.hierarchy == "levels":
            return queries.bits[:, :, level]
        return queries.bits.flatten(2) if level == 0 else queries.bits[:, :, 0, :0]


class Level(nn.Module):
    """LayerNorm → Linear → GELU → Linear; adds its input where the widths agree (H7, H9)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)
        self.has_shortcut = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, inputs] → [B, N, outputs]."""
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))
        return x + y if self.has_shortcut else y


class LinearAttention(nn.Module):
    """Softmax-free attention whose KᵀV is averaged over all queries of the call (H8)."""

    def __init__(self, width: int, heads: int, projections: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.kln = nn.LayerNorm(width // heads)
        self.vln = nn.LayerNorm(width // heads)
        names = ("proj1", "proj2") if projections == 2 else ("proj",)
        for name in names:
            self.add_module(name, nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] → [B, N, width]."""
        query, key, value = self.split(x)
        return self.mix(x, query, self.products(key, value) / x.shape[1])

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, N, width] → query, key and value, [B, heads, N, width / heads] each."""
        batch, count, width = x.shape
        qkv = self.qkv_proj(x).reshape(batch, count, self.heads, 3 * (width // self.heads)).transpose(1, 2)
        query, key, value = qkv.chunk(3, dim=-1)
        return query, key, value

    def products(self, key: Tensor, value: Tensor) -> Tensor:
        """Return KᵀV [B, heads, d, d], summed over the given queries; key and value [B, heads, N, d]."""
        total: Tensor = self.kln(key).transpose(-2, -1) @ self.vln(value)
        return total

    def mix(self, x: Tensor, query: Tensor, average: Tensor) -> Tensor:
        """Return the block's output [B, N, width], given the average KᵀV of all queries that belong together."""
        attended = (query @ average).transpose(1, 2).reshape(x.shape)
        return x + self.project(attended + x)

    def project(self, x: Tensor) -> Tensor:
        """proj2(GELU(proj1(x))) of [B, N, width], or GELU(proj(x)) in the variant with one projection."""
        first = getattr(self, "proj1", None) or self.get_submodule("proj")
        y: Tensor = nn.functional.gelu(first(x))
        return self.get_submodule("proj2")(y) if hasattr(self, "proj2") else y
