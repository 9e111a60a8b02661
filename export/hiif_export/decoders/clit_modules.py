"""CLIT restructured for deployment: equal to `hiif_training.models.clit` up to rounding.

Keys, values and attention queries are maps. The position bias is a row part plus a column part, because each wave reads
one axis only. The first layer is applied to one row of tokens at a time, so that the 12,544 weighted values of a query
are never in memory together.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from hiif_training.models.clit import MEMORY, Clit
from hiif_training.models.mlp import Mlp
from hiif_training.queries.axis import CORNERS


class ClitMaps(nn.Module):
    """Features of one stage → attention query, key and value per pixel."""

    def __init__(self, model: Clit, stage: int = 0) -> None:
        super().__init__()
        self.width = model.config.width
        scale = math.sqrt(self.width // model.config.heads)
        layers = (model.conv_qs[stage], model.conv_ks[stage], model.conv_vs[stage])
        weights, biases = ([getattr(layer, kind).detach() for layer in layers] for kind in ("weight", "bias"))
        self.convolution = nn.Conv2d(self.width, 3 * self.width, 3)
        self.convolution.weight.data.copy_(torch.cat([weights[0] / scale, *weights[1:]]))
        self.convolution.bias.data.copy_(torch.cat([biases[0] / scale, *biases[1:]]))  # type: ignore[union-attr]

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features [1, width, b + 2, w + 2] of b × w pixels and a halo of one → query, key, value [b·w, width] each.

        Pixels are row-major, without the halo; beyond the picture's border the halo is zero. Attention queries are
        divided by the square root of a head's size.
        """
        maps: Tensor = self.convolution(features)
        return maps.flatten(2).transpose(1, 2)[0].chunk(3, dim=1)


class ClitDecoder(nn.Module):
    """Maps and geometry of one stage → colours of a rectangle of queries.

    Later stages also read the output of the stage before. Of T + 2 taps along an axis the first T are the tokens, and
    the last two are those between which the attention query is interpolated.
    """

    cell: Tensor
    bias: Tensor

    def __init__(self, model: Clit, stage: int = 0) -> None:
        super().__init__()
        config = model.config
        network = list(cast(Mlp, model.imnets[stage]).layers)
        self.heads, self.width = config.heads, config.width
        self.tokens = 2 * config.reach + 1
        self.position = ClitPositionBias(model)
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        first = layers[0].weight.detach()
        parts = first[:, :-2].chunk(self.tokens, dim=1)
        self.first = nn.ModuleList(_linear(part) for part in parts)
        self.register_buffer("cell", first[:, -2:].T.contiguous())
        self.register_buffer("bias", layers[0].bias.detach().clone())
        self.rest = nn.Sequential(*network[1:])

    def forward(
        self, map_0: Tensor, map_1: Tensor, map_2: Tensor, row_tap: Tensor, column_tap: Tensor, row_weight: Tensor,
        column_weight: Tensor, row_relative: Tensor, column_relative: Tensor, cell: Tensor,
        before: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Maps [P, width] and axis tables → colours [R·W, 3] of R × W queries, row-major.

        Taps (int32) and weights [T + 2, R, 1] and [T + 2, 1, W], relative positions [T, R, 1] and [T, 1, W], `cell`
        [2]; `before` [R·W, 3] is the output of the stage before.
        """
        query = self._attention_query(map_0, row_tap, column_tap, row_weight, column_weight)
        columns, inside = column_tap[: self.tokens], column_weight[: self.tokens]
        row_bias, column_bias = self.position(row_relative, column_relative)
        scores, masks, taps = [], [], []
        for n in range(self.tokens):
            tap = (row_tap[n] + columns).flatten(1)
            mask = (row_weight[n] * inside).flatten(1)[..., None]
            known = embedding(tap, map_1) * query
            score = known.view(*known.shape[:2], self.heads, -1).sum(-1) * mask
            scores.append(score + (row_bias[n] + column_bias).flatten(1, 2))
            masks.append(mask)
            taps.append(tap)
        weight = torch.cat(scores).softmax(0).chunk(self.tokens)
        hidden = cell @ self.cell + self.bias
        for n, layer in enumerate(self.first):
            hidden = hidden + layer(self._weighted(map_2, taps[n], weight[n] * masks[n]))
        colours: Tensor = self.rest(hidden)
        return colours if before is None else colours + MEMORY * before

    def _attention_query(
        self, maps: Tensor, row_tap: Tensor, column_tap: Tensor, row_weight: Tensor, column_weight: Tensor
    ) -> Tensor:
        """Return the bilinear sample [N, width]; weights beyond the picture are zero."""
        total = torch.zeros(())
        for a, b in CORNERS:
            row, column = self.tokens + a, self.tokens + b
            weight = (row_weight[row] * column_weight[column]).reshape(-1, 1)
            part = embedding((row_tap[row] + column_tap[column]).flatten(), maps) * weight
            total = part if (a, b) == (0, 0) else total + part
        return total

    def _weighted(self, values: Tensor, tap: Tensor, weight: Tensor) -> Tensor:
        """Return the values [N, T·width] of a row of tokens, from [T, N] pixels and [T, N, heads] weights."""
        found = embedding(tap, values)
        tokens, count, width = found.shape
        weighed = found.view(tokens, count, self.heads, -1) * weight[..., None]
        return weighed.transpose(0, 1).reshape(count, tokens * width)


class ClitPositionBias(nn.Module):
    """The position's share of an attention score, as a row part plus a column part.

    The bias of the layer is left out: it is equal for every token, which a softmax over the tokens cancels.
    """

    waves: Tensor
    row: Tensor
    column: Tensor

    def __init__(self, model: Clit) -> None:
        super().__init__()
        self.tokens = 2 * model.config.reach + 1
        self.register_buffer("waves", model.pb_encoder.waves())
        row_sine, column_sine, row_cosine, column_cosine = model.pb_encoder.proj.weight.detach().T.chunk(4)
        self.register_buffer("row", torch.cat([row_sine, row_cosine]))
        self.register_buffer("column", torch.cat([column_sine, column_cosine]))

    def forward(self, row_relative: Tensor, column_relative: Tensor) -> tuple[Tensor, Tensor]:
        """Relative rows [T (+ 2), R, 1] and columns [T (+ 2), 1, W] → a row part [T, R, 1, heads] and a column part."""
        return self._part(row_relative, self.row), self._part(column_relative, self.column)

    def _part(self, relative: Tensor, weight: Tensor) -> Tensor:
        angle = relative[: self.tokens, ..., None] * self.waves
        return torch.cat([angle.sin(), angle.cos()], dim=-1) @ weight


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    return layer
