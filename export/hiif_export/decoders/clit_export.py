"""Exports CLIT: one pair of maps and decoder graphs per stage."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import DecoderContract, EncoderContract, Precision
from hiif_deploy.errors import OptionError
from hiif_export.decoders.clit_modules import ClitDecoder, ClitMaps
from hiif_export.graphs.exporter import (
    DecoderExporter,
    Inputs,
    axis_inputs,
    cell_input,
    features_input,
    map_input,
    shapes,
)
from hiif_export.graphs.graph import Graph
from hiif_training.models.clit import Clit

REACH = 3
"""Pixels to every side that the axis rule `clit` covers."""


class ClitExporter(DecoderExporter):
    """CLIT: independent queries, stages in a cascade; fp32 only, because its position code has waves of 1023 per
    pixel."""

    model: Clit
    precisions = ("fp32",)

    def __init__(self, model: Clit) -> None:
        super().__init__(model)
        if model.config.reach != REACH:
            raise OptionError(f"this CLIT reaches {model.config.reach} pixels far: only {REACH} can be exported")

    def encoder_graph(self, precision: Precision) -> Graph:
        """image → the features that every stage samples."""
        graph = super().encoder_graph(precision)
        module = nn.Sequential(graph.module, self.model.conv_ch).eval()
        outputs = {"features": (1, self.model.config.width, "height", "width")}
        return Graph(graph.name, _Encoder(module).eval(), graph.inputs, outputs, graph.multiples, precision)

    def maps_graph(self, precision: Precision) -> Graph:
        """Maps graph of the first stage."""
        return self._maps_graph("maps", 0, precision)

    def decoder_graph(self, precision: Precision) -> Graph:
        """Decoder graph of the first stage."""
        return self._decoder_graph("decoder", 0, precision)

    def graphs(self, precision: Precision = "fp32") -> list[Graph]:
        """Return the graphs in the order of use, those of later stages last."""
        later = [
            make(f"{kind}_{n}", n, precision)
            for n in range(1, self.model.config.stages)
            for kind, make in (("maps", self._maps_graph), ("decoder", self._decoder_graph))
        ]
        return [*super().graphs(precision), *later]

    def encoder_contract(self) -> EncoderContract:
        """The encoder's contract with one more convolution."""
        encoder, width = self.model.encoder, self.model.config.width
        return EncoderContract(
            channels=width,
            receptive_field=None if encoder.receptive_field is None else encoder.receptive_field + 1,
            size_multiple=encoder.size_multiple,
            memory_channels=max(encoder.memory_channels, encoder.out_channels + 2 * width),
        )

    def contract(self) -> DecoderContract:
        """Contract of a cascade with axis rule `clit`."""
        config, traits = self.model.config, self.model.traits
        side = 2 * REACH + 1
        return DecoderContract(
            halo=1, statistics_passes=0, map_channels=4 * config.width,
            query_channels=4 * side * config.width + 4 * side * side * config.heads + 2 * max(config.hidden),
            axes="clit", skip=traits.skip, clips_cell=traits.clips_cell, cascade=config.stages,
        )  # fmt: skip

    def _maps_graph(self, name: str, stage: int, precision: Precision) -> Graph:
        inputs = features_input(self.model.config.width, precision)
        return Graph(name, ClitMaps(self.model, stage).eval(), inputs, shapes(self._maps()), {}, precision)

    def _decoder_graph(self, name: str, stage: int, precision: Precision) -> Graph:
        side = 2 * REACH + 1
        inputs: Inputs = {
            **self._maps(), **axis_inputs("tap", side + 2, torch.int32), **axis_inputs("weight", side + 2),
            **axis_inputs("relative", side), **cell_input(),
        }  # fmt: skip
        if stage:
            inputs["before"] = (torch.zeros(35, 3), ("queries", 3))
        return Graph(name, ClitDecoder(self.model, stage).eval(), inputs, {"colour": ("queries", 3)}, {}, precision)

    def _maps(self) -> Inputs:
        found: Inputs = {}
        for n in range(3):
            found |= map_input(f"map_{n}", self.model.config.width, torch.float32)
        return found


class _Encoder(nn.Module):
    """Gives the sequence an input named `image`."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, image: Tensor) -> Tensor:
        """Picture [1, 3, h, w] → features [1, width, h, w]."""
        features: Tensor = self.layers(image)
        return features
