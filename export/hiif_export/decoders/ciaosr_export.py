"""Exports CiaoSR: the non-local branch in the encoder graph, everything else per tile and per query."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import DecoderContract, EncoderContract, Precision
from hiif_export.decoders.ciaosr_modules import DIRECTIONS, CiaosrDecoder, CiaosrMaps
from hiif_export.decoders.cross_scale_modules import PARTS, CrossScale
from hiif_export.graphs.exporter import DecoderExporter, Inputs, axis_inputs, cell_input, map_inputs
from hiif_export.graphs.graph import Graph
from hiif_training.models.ciaosr import Ciaosr
from hiif_training.models.surroundings import NEIGHBOURS

TILE, OVERLAP = 192, 32
"""Source pixels of the published tiles and of their overlap, in which outputs are averaged."""


class CiaosrExporter(DecoderExporter):
    """CiaoSR: independent queries and a non-local encoder; fp32 only, because attention scores are large sums."""

    model: Ciaosr
    maps_module, decoder_module = CiaosrMaps, CiaosrDecoder
    precisions = ("fp32",)

    def encoder_graph(self, precision: Precision) -> Graph:
        """image → local features, followed by those of the non-local branch."""
        graph = super().encoder_graph(precision)
        if not self.model.config.non_local:
            return graph
        module = _Encoder(graph.module, CrossScale(self.model.cs_attn)).eval()
        outputs = {"features": (1, self._channels, "height", "width")}
        return replace(graph, module=module, outputs=outputs)

    def maps(self, compute: torch.dtype) -> Inputs:
        """First layers, products of neighbouring pixels, and values."""
        config, channels = self.model.config, self.model.encoder.out_channels
        values = NEIGHBOURS * channels + (channels if config.non_local else 0)
        widths = (config.hidden[0], config.hidden[0], len(DIRECTIONS) * (config.hidden[-1] + 1), values)
        return map_inputs(widths, compute)

    def geometry(self) -> Inputs:
        """Tables of the four pixels and the nearest one, and the cell."""
        return {**axis_inputs("tap", 3, torch.int32), **axis_inputs("relative", 2), **cell_input()}

    def encoder_contract(self) -> EncoderContract:
        """Published tiles, because the cost of the branch grows with the square of the area."""
        plain = super().encoder_contract()
        if not self.model.config.non_local:
            return plain
        # Scores of one part and their softmax; 4×4 vectors that a pixel spreads, 9·C/2 values that are compared.
        branch = 2 * TILE * TILE // 4 // PARTS + (2 * 16 + 9) * plain.channels
        memory, tiles = max(plain.memory_channels, branch), {"tile": TILE, "tile_overlap": OVERLAP}
        return replace(plain, channels=self._channels, receptive_field=None, memory_channels=memory, **tiles)

    def contract(self) -> DecoderContract:
        """Contract of a decoder with a halo of two pixels and axis rule `ciaosr`."""
        values = NEIGHBOURS * self.model.encoder.out_channels
        return self.make_contract(
            halo=2, axes="ciaosr", query_channels=8 * values + 8 * max(self.model.config.hidden),
            map_channels=sum(tensor.shape[1] for tensor, _ in self.maps(torch.float32).values()),
        )  # fmt: skip

    @property
    def _channels(self) -> int:
        """Channels of the features, the branch's included."""
        return self.model.encoder.out_channels * (2 if self.model.config.non_local else 1)


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module, branch: CrossScale) -> None:
        super().__init__()
        self.encoder, self.branch = encoder, branch

    def forward(self, image: Tensor) -> Tensor:
        """Picture [1, 3, h, w] → local and non-local features [1, 2·C, h, w]."""
        features: Tensor = self.encoder(image)
        return torch.cat([features, self.branch(features)], dim=1)
