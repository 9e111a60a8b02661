"""MetaSR restructured for deployment: equal to `hiif_training.models.metasr` up to rounding.

A filter is linear in the network's hidden layer h, and the colour is linear in the filter. So the features' products
with each hidden unit's filter are maps, and a query sums them with its h as weights: 1,536 instead of 442,368
multiplications per query beside h, and 444,096 per source pixel. The known restructuring for integer scales (one filter
per phase) needs no map but works there only; this one is the same graph for every scale.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, relu

from hiif_deploy.bundle.contract import DecoderContract
from hiif_export.graphs.corners import Position
from hiif_export.graphs.exporter import DecoderExporter, Inputs, axis_inputs, cell_input, map_input
from hiif_export.graphs.precision import wide
from hiif_training.models.metasr import Metasr


class MetasrMaps(nn.Module):
    """Products of the features with every hidden unit's filter."""

    def __init__(self, model: Metasr) -> None:
        super().__init__()
        channels, last = model.encoder.out_channels, cast(nn.Linear, model.imnet.layers[2])
        both = torch.cat([last.weight, last.bias[:, None]], dim=1).detach()
        filters = both.reshape(channels, 3, 3, 3, -1).permute(3, 4, 0, 1, 2)
        self.convolution = nn.Conv2d(channels, filters.shape[0] * filters.shape[1], 3, bias=False)
        self.convolution.weight.data.copy_(filters.flatten(0, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Features [1, C, b + 2, w + 2] of b × w pixels and a halo of one → map [b·w, 3·(M + 1)], row-major.

        Channel c·(M + 1) + j is colour c and hidden unit j; the last j is the bias.
        """
        maps: Tensor = self.convolution(features)
        return maps.flatten(2).transpose(1, 2)[0]


class MetasrDecoder(nn.Module):
    """Map and geometry → colours of a rectangle of queries."""

    scale: Tensor
    bias: Tensor

    def __init__(self, model: Metasr) -> None:
        super().__init__()
        first = cast(nn.Linear, model.imnet.layers[0])
        self.position = Position(first.weight.detach()[:, :2])
        self.register_buffer("scale", first.weight.detach()[:, 2] / 2)
        self.register_buffer("bias", first.bias.detach().clone())

    def forward(
        self, map_0: Tensor, row_tap: Tensor, column_tap: Tensor, row_local: Tensor, column_local: Tensor, cell: Tensor
    ) -> Tensor:
        """Map [P, 3·(M + 1)] and axis tables → colours [R·W, 3] of R × W queries, row-major.

        Taps (int32) and local positions [1, R, 1] and [1, 1, W], `cell` [2].
        """
        constant = cell[0] * self.scale + self.bias
        hidden = relu(self.position(row_local[0][..., None], column_local[0][..., None], constant))
        products = wide(embedding((row_tap[0] + column_tap[0]).flatten(), map_0))
        products = products.reshape(-1, 3, hidden.shape[1] + 1)
        return (products[:, :, :-1] * hidden[:, None]).sum(2) + products[:, :, -1]


class MetasrExporter(DecoderExporter):
    """MetaSR: one map, one source pixel per query."""

    model: Metasr
    maps_module, decoder_module = MetasrMaps, MetasrDecoder

    @property
    def map_channels(self) -> int:
        """Channels of the map: for each colour the product with each hidden unit's filter and with the bias."""
        return 3 * (self.model.config.hidden + 1)

    def maps(self, compute: torch.dtype) -> Inputs:
        """Products with every hidden unit's filter."""
        return map_input("map_0", self.map_channels, compute)

    def geometry(self) -> Inputs:
        """Tables of one source pixel per query, and the cell."""
        return {**axis_inputs("tap", 1, torch.int32), **axis_inputs("local", 1), **cell_input()}

    def contract(self) -> DecoderContract:
        """Contract of a decoder with one source pixel per query and axis rule `top-left`."""
        channels = self.map_channels
        return self.make_contract(halo=1, map_channels=channels, query_channels=3 * channels, axes="top-left")
