"""LIIF restructured for deployment: equal to `hiif_training.models.liif` up to rounding, 43 % fewer operations.

The first layer is linear in the 3×3 surroundings, so it becomes one convolution per source pixel; per query only
position and cell remain. The last layer is linear, so it is applied once to the average instead of to each corner.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, relu

from hiif_deploy.bundle.contract import DecoderContract
from hiif_export.decoders.corner_network import network_after_first
from hiif_export.graphs.corners import Position, corner_pixels, corner_relatives, corner_weights
from hiif_export.graphs.exporter import DecoderExporter, Inputs, map_input
from hiif_export.graphs.precision import wide
from hiif_training.models.liif import Liif


class LiifMaps(nn.Module):
    """The first layer's product with the features of every pixel."""

    def __init__(self, model: Liif) -> None:
        super().__init__()
        channels, side = model.encoder.out_channels, 3 if model.config.unfold else 1
        weight = cast(nn.Linear, model.imnet.layers[0]).weight[:, : channels * side * side]
        self.convolution = nn.Conv2d(channels, weight.shape[0], side, bias=False)
        self.convolution.weight.data.copy_(weight.reshape(self.convolution.weight.shape))

    def forward(self, features: Tensor) -> Tensor:
        """Features [1, C, b + 2, w + 2] of b × w pixels and a halo (none without surroundings) → map [b·w, M],
        row-major."""
        maps: Tensor = self.convolution(features)
        return maps.flatten(2).transpose(1, 2)[0]


class LiifDecoder(nn.Module):
    """Map and geometry → colours of a rectangle of queries."""

    cell_weight: Tensor
    bias: Tensor

    def __init__(self, model: Liif) -> None:
        super().__init__()
        first = cast(nn.Linear, model.imnet.layers[0])
        place = first.weight[:, -4 if model.config.cell else -2 :].detach()
        self.position = Position(place[:, :2])
        # Without a cell the weights are zero, so that the graph's inputs stay the same.
        cell = place[:, 2:] if model.config.cell else torch.zeros_like(place)
        self.register_buffer("cell_weight", cell.T.contiguous())
        self.register_buffer("bias", first.bias.detach().clone())
        self.network = network_after_first(model.imnet)

    def forward(
        self, map_0: Tensor, row_tap: Tensor, column_tap: Tensor, row_distance: Tensor, column_distance: Tensor,
        row_relative: Tensor, column_relative: Tensor, cell: Tensor,
    ) -> Tensor:  # fmt: skip
        """Map [P, M] and axis tables → colours [R·W, 3] of R × W queries, row-major.

        Taps (int32), distances and relative positions [2, R, 1] and [2, 1, W], `cell` [2].
        """
        pixels = corner_pixels(row_tap, column_tap)
        places = corner_relatives(row_relative, column_relative)
        weights = corner_weights(row_distance, column_distance)
        constant = cell @ self.cell_weight + self.bias
        rows = [
            relu(wide(embedding(pixels[k], map_0)) + self.position(*places[k], constant)).to(map_0.dtype)
            for k in range(4)
        ]
        colours: Tensor = self.network(rows, weights)
        return colours


class LiifExporter(DecoderExporter):
    """LIIF: one map, no statistics."""

    model: Liif
    maps_module, decoder_module = LiifMaps, LiifDecoder

    def maps(self, compute: torch.dtype) -> Inputs:
        """The first layer's product with the surroundings."""
        return map_input("map_0", self.model.config.hidden[0], compute)

    def contract(self) -> DecoderContract:
        """Contract of a decoder with independent queries and one map."""
        unfold, hidden = self.model.config.unfold, self.model.config.hidden
        return self.make_contract(halo=1 if unfold else 0, map_channels=hidden[0], query_channels=6 * max(hidden))
