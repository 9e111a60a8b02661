"""Exports CLIT: one pair of maps and decoder graphs per stage."""

from dataclasses import replace

import torch
from torch import nn

from hiif_deploy.bundle.contract import DecoderContract, EncoderContract, Precision
from hiif_deploy.errors import OptionError
from hiif_export.decoders.clit_modules import ClitDecoder, ClitMaps
from hiif_export.graphs.exporter import COLOUR, DecoderExporter, Inputs, axis_inputs, cell_input, make_graph, map_inputs
from hiif_export.graphs.graph import Graph
from hiif_training.models.clit import Clit

REACH = 3
"""Pixels to every side that the axis rule `clit` covers."""
SIDE = 2 * REACH + 1
"""Tokens of a query along an axis."""


class ClitExporter(DecoderExporter):
    """CLIT: independent queries, stages in a cascade; fp32 only, because its position code has waves of 1023 per
    pixel."""

    model: Clit
    maps_module, decoder_module = ClitMaps, ClitDecoder
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
        return replace(graph, module=module, outputs=outputs)

    def maps(self, compute: torch.dtype) -> Inputs:
        """Attention query, key and value per pixel of a stage."""
        return map_inputs([self.model.config.width] * 3, compute)

    def geometry(self) -> Inputs:
        """Tables of the tokens and of the attention query's taps, and the cell."""
        taps, side = axis_inputs("tap", SIDE + 2, torch.int32), axis_inputs("relative", SIDE)
        return {**taps, **axis_inputs("weight", SIDE + 2), **side, **cell_input()}

    def graphs(self, precision: Precision = "fp32") -> list[Graph]:
        """Return the graphs in the order of use, those of later stages last."""
        found = super().graphs(precision)
        inputs = {**self.maps(torch.float32), **self.geometry(), "before": (torch.zeros(35, 3), ("queries", 3))}
        for n in range(1, self.model.config.stages):
            found.append(self.maps_graph(precision, f"maps_{n}", ClitMaps(self.model, n)))
            found.append(make_graph(f"decoder_{n}", ClitDecoder(self.model, n), inputs, COLOUR))
        return found

    def encoder_contract(self) -> EncoderContract:
        """The encoder's contract with one more convolution."""
        width, plain = self.model.config.width, super().encoder_contract()
        field = None if plain.receptive_field is None else plain.receptive_field + 1
        memory = max(plain.memory_channels, plain.channels + 2 * width)
        return replace(plain, channels=width, receptive_field=field, memory_channels=memory)

    def contract(self) -> DecoderContract:
        """Contract of a cascade with axis rule `clit`."""
        config = self.model.config
        queries = 4 * SIDE * config.width + 4 * SIDE * SIDE * config.heads + 2 * max(config.hidden)
        return self.make_contract(
            halo=1, axes="clit", cascade=config.stages, map_channels=4 * config.width, query_channels=queries
        )
