"""Exports SRNO; `srno_modules` explains the restructuring."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import DecoderContract, Precision
from hiif_export.decoders.hiif_modules import Attention, Fold
from hiif_export.decoders.srno_modules import (
    BLOCKS,
    SrnoDecoder,
    SrnoFirst,
    SrnoKeyValue,
    SrnoMaps,
    SrnoTail,
    as_linear_attention,
)
from hiif_export.graphs.exporter import (
    DecoderExporter,
    Inputs,
    Shapes,
    axis_inputs,
    cell_input,
    features_input,
    map_input,
    shapes,
)
from hiif_export.graphs.graph import Graph
from hiif_export.graphs.precision import COMPUTE, typed
from hiif_training.models.srno import Srno

COLOUR: Shapes = {"colour": ("queries", 3)}


class SrnoExporter(DecoderExporter):
    """SRNO: a statistics pass and a fold per attention block."""

    model: Srno

    def maps_graph(self, precision: Precision) -> Graph:
        """Features → the input layer's product with each corner's features."""
        compute = COMPUTE[precision]
        inputs = features_input(self.model.encoder.out_channels, precision)
        return Graph("maps", typed(SrnoMaps(self.model), compute), inputs, shapes(self._maps(compute)), {}, precision)

    def statistics_graphs(self, precision: Precision) -> list[Graph]:
        """One statistics graph per attention block."""
        return [self._graph(f"statistics_{n}", n, shapes(self._sums()), precision) for n in range(BLOCKS)]

    def fold_graphs(self) -> list[Graph]:
        """One fold graph per attention block."""
        count: Inputs = {"count": (torch.ones(1, dtype=torch.float64), (1,))}
        blocks = [as_linear_attention(block) for block in (self.model.conv0, self.model.conv1)]
        return [
            Graph(
                f"fold_{n}", Fold(block).eval(), {**self._sums(), **count}, shapes(self._folded(n, torch.float32)), {}
            )
            for n, block in enumerate(blocks)
        ]

    def decoder_graph(self, precision: Precision) -> Graph:
        """Maps and folded attention → colours, through all layers."""
        return self._graph("decoder", BLOCKS, COLOUR, precision)

    def stage_graphs(self) -> list[Graph]:
        """The statistics and decoder graphs split between passes."""
        model, float32 = self.model, torch.float32
        first = {**self._maps(float32), **_geometry()}
        parts: list[tuple[str, nn.Module, Inputs, Shapes]] = [
            ("first", SrnoFirst(model), first, shapes(self._state(0))),
            ("sums_0", SrnoKeyValue(model.conv0), self._state(0), shapes(self._sums())),
            ("mix_0", Attention(as_linear_attention(model.conv0)), {**self._state(0), **self._folded(0, float32)},
             shapes(self._state(1))),
            ("sums_1", SrnoKeyValue(model.conv1), self._state(1), shapes(self._sums())),
            ("tail", SrnoTail(model), {**self._state(1), **self._folded(1, float32)}, COLOUR),
        ]  # fmt: skip
        return [Graph(name, typed(module, float32), inputs, outputs, {}) for name, module, inputs, outputs in parts]

    def contract(self) -> DecoderContract:
        """Contract of a decoder with coupled queries and four maps."""
        width, traits = self.model.config.width, self.model.traits
        return DecoderContract(
            halo=0, statistics_passes=BLOCKS, map_channels=4 * width, query_channels=8 * width,
            skip=traits.skip, clips_cell=traits.clips_cell,
        )  # fmt: skip

    def _graph(self, name: str, applied: int, outputs: Shapes, precision: Precision) -> Graph:
        compute = COMPUTE[precision]
        folded = {key: value for n in range(applied) for key, value in self._folded(n, compute).items()}
        inputs = {**self._maps(compute), **_geometry(), **folded}
        return Graph(name, typed(SrnoDecoder(self.model, applied, compute), compute), inputs, outputs, {}, precision)

    def _maps(self, compute: torch.dtype) -> Inputs:
        parts = [map_input(f"map_{k}", self.model.config.width, compute) for k in range(4)]
        return {name: value for part in parts for name, value in part.items()}

    def _state(self, n: int) -> Inputs:
        width = self.model.config.width
        return {f"state_{n}": (torch.ones(35, width), ("queries", width))}

    def _folded(self, n: int, compute: torch.dtype) -> Inputs:
        width = self.model.config.width
        return {
            f"attention_{n}_weight": (torch.zeros(width, width, dtype=compute), (width, width)),
            f"attention_{n}_bias": (torch.zeros(width, dtype=compute), (width,)),
        }

    def _sums(self) -> Inputs:
        heads = self.model.config.heads
        size = self.model.config.width // heads

        def zeros(*shape: int) -> tuple[Tensor, tuple[str | int, ...]]:
            return torch.zeros(*shape, dtype=torch.float64), shape

        return {"outer": zeros(heads, size, size), "key": zeros(heads, size), "value": zeros(heads, size)}


def _geometry() -> Inputs:
    axes = {**axis_inputs("tap", 2, torch.int32), **axis_inputs("distance", 2), **axis_inputs("relative", 2)}
    return {**axes, **cell_input()}
