"""CiaoSR restructured for deployment: equal to `hiif_training.models.ciaosr` up to rounding, 41 % fewer operations.

The first layers of both networks become maps at the resolution of the features. The last layer of the key's network is
moved out of the query: ⟨question, key · (W h + b)⟩ = h · Wᵀ(question · key) + b · (question · key), and question · key
depends on pairs of neighbouring pixels only. A pair is symmetric, so five directions represent all nine.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, relu

from hiif_training.models.ciaosr import Ciaosr
from hiif_training.models.mlp import Mlp
from hiif_training.models.surroundings import NEIGHBOURS
from hiif_training.queries.axis import CORNERS

DIRECTIONS = ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1))
"""(rows, columns) from a pixel to itself and to the four neighbours that follow it in reading order."""
NEAREST = 2
"""Index of the tap that is the pixel nearest to the query; taps 0 and 1 are the corners'."""


class CiaosrMaps(nn.Module):
    """Features of a tile → four maps, one row per pixel; `forward` has the shapes."""

    def __init__(self, model: Ciaosr) -> None:
        super().__init__()
        self.channels = model.encoder.out_channels
        keys = NEIGHBOURS * self.channels
        self.key = _surroundings_layer(model.imnet_k, self.channels)
        self.value = _surroundings_layer(model.imnet_v, self.channels)
        last = _layers(model.imnet_k)[-1]
        self.pair = nn.Conv2d(self.channels, last.in_features + 1, 3, bias=False)
        products = torch.cat([last.weight.detach().T, last.bias.detach()[None]])
        self.pair.weight.data.copy_(products.view(-1, self.channels, 3, 3))
        self.other = None
        if model.config.non_local:
            self.other = nn.Conv2d(self.channels, self.value.out_channels, 1, bias=False)
            weight = _layers(model.imnet_v)[0].weight.detach()[:, keys : keys + self.channels]
            self.other.weight.data.copy_(weight[:, :, None, None])

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features [1, C (+ C), b + 4, w + 4] of b × w pixels and a halo of two → four maps, row-major, without the
        halo.

        First layers of the key's and the value's network [b·w, hidden] each; the last layer of the key's network with
        every pair [b·w, 5 · (hidden + 1)], the bias's part last; values [b·w, 9·C (+ C)]. Beyond the picture's border
        the halo is zero.
        """
        local = features[:, : self.channels]
        height, width = features.shape[2] - 4, features.shape[3] - 4
        near = _window(local, 1, 1, height + 2, width + 2)
        value, rows = self.value(near), [_stacked(near, height, width)]
        if self.other is not None:
            other = _window(features[:, self.channels :], 2, 2, height, width)
            value = value + self.other(other)
            rows.append(other)
        pairs = [
            self.pair(near * _window(local, 1 + down, 1 + right, height + 2, width + 2)) for down, right in DIRECTIONS
        ]
        return _rows(self.key(near)), _rows(value), _rows(torch.cat(pairs, 1)), _rows(torch.cat(rows, 1))


class CiaosrDecoder(nn.Module):
    """Maps and geometry → colours of a rectangle of queries."""

    def __init__(self, model: Ciaosr) -> None:
        super().__init__()
        keys = NEIGHBOURS * model.encoder.out_channels
        values = keys + model.encoder.out_channels if model.config.non_local else keys
        self.key_place, self.value_place = _Place(model.imnet_k, keys), _Place(model.imnet_v, values)
        self.key_hidden = nn.ModuleList(_layers(model.imnet_k)[1:-1])
        self.value_hidden = nn.ModuleList(_layers(model.imnet_v)[1:-1])
        self.value_last = _layers(model.imnet_v)[-1]
        self.colour = model.imnet_q

    def forward(
        self, map_0: Tensor, map_1: Tensor, map_2: Tensor, map_3: Tensor, row_tap: Tensor, column_tap: Tensor,
        row_relative: Tensor, column_relative: Tensor, cell: Tensor,
    ) -> Tensor:  # fmt: skip
        """Four maps [P, …] as `CiaosrMaps` returns them → colours [R·W, 3] of R × W queries, row-major.

        `row_tap` [3, R, 1] and `column_tap` [3, 1, W] int32, `row_relative` [2, R, 1], `column_relative` [2, 1, W],
        `cell` [2].
        """
        pairs = map_2.reshape(-1, map_2.shape[1] // len(DIRECTIONS))
        scores, values = [], []
        for a, b in CORNERS:
            tap = (row_tap[a] + column_tap[b]).flatten()
            row, column = row_relative[a], column_relative[b]
            key = _hidden(self.key_hidden, relu(embedding(tap, map_0) + self.key_place(row, column, cell)))
            pair = embedding(pair_index(row_tap, column_tap, a, b), pairs)
            scores.append((key * pair[:, :-1]).sum(1, keepdim=True) + pair[:, -1:])
            value = _hidden(self.value_hidden, relu(embedding(tap, map_1) + self.value_place(row, column, cell)))
            values.append(embedding(tap, map_3) * self.value_last(value))
        weight = torch.cat(scores, 1).softmax(1)
        mixed = values[0] * weight[:, 0:1]
        for k in range(1, 4):
            mixed = mixed + values[k] * weight[:, k : k + 1]
        colours: Tensor = self.colour(mixed)
        return colours


class _Place(nn.Module):
    """The part of a first layer that reads position and cell, with its bias."""

    row: Tensor
    column: Tensor
    cell: Tensor
    bias: Tensor

    def __init__(self, network: Mlp, features: int) -> None:
        super().__init__()
        first = _layers(network)[0]
        weight = first.weight.detach()[:, features:]
        self.register_buffer("row", weight[:, 0].clone())
        self.register_buffer("column", weight[:, 1].clone())
        self.register_buffer("cell", weight[:, 2:].T.contiguous())
        self.register_buffer("bias", first.bias.detach().clone())

    def forward(self, row: Tensor, column: Tensor, cell: Tensor) -> Tensor:
        """[R, 1] and [1, W] relative positions, [2] cell → [R·W, hidden]."""
        constant = cell @ self.cell + self.bias
        return (row[..., None] * self.row + column[..., None] * self.column + constant).flatten(0, 1)


def pair_index(row_tap: Tensor, column_tap: Tensor, a: int, b: int) -> Tensor:
    """Return the rows [R·W] of the pair map, five per pixel, for the nearest pixel and corner (a, b).

    `row_tap` [3, R, 1] and `column_tap` [3, 1, W] count pixels, not rows: only their order matters here.
    """
    row, column, near_row, near_column = row_tap[a], column_tap[b], row_tap[NEAREST], column_tap[NEAREST]
    down, right = torch.sign(row - near_row), torch.sign(column - near_column)
    # The pair is kept at the pixel that comes first in reading order.
    same_row = torch.minimum(column, near_column)
    first_column = torch.where(down < 0, column, torch.where(down > 0, near_column, same_row))
    direction = torch.where(down == 0, right.abs(), 3 + down * right)
    first = torch.minimum(row, near_row) + first_column
    return (first * len(DIRECTIONS) + direction).flatten()


def _layers(network: Mlp) -> list[nn.Linear]:
    return [layer for layer in network.layers if isinstance(layer, nn.Linear)]


def _hidden(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = relu(cast(Tensor, layer(x)))
    return x


def _surroundings_layer(network: Mlp, channels: int) -> nn.Conv2d:
    """The part of a first layer that reads 3×3 surroundings, as a convolution without padding."""
    weight = _layers(network)[0].weight.detach()[:, : NEIGHBOURS * channels]
    layer = nn.Conv2d(channels, weight.shape[0], 3, bias=False)
    layer.weight.data.copy_(weight.reshape(-1, channels, 3, 3))
    return layer


def _stacked(near: Tensor, height: int, width: int) -> Tensor:
    """[1, C, b + 2, w + 2] → [1, 9·C, b, w]: channel 9·c + 3·row + column, as `surroundings`."""
    windows = [_window(near, row, column, height, width) for row in range(3) for column in range(3)]
    return torch.stack(windows, dim=2).flatten(1, 2)


def _window(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return x.narrow(2, top, height).narrow(3, left, width)


def _rows(maps: Tensor) -> Tensor:
    """[1, C, b, w] → [b·w, C]."""
    return maps.flatten(2).transpose(1, 2)[0]
