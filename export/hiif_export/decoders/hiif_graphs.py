"""Exports HIIF: which modules, which named tensors, which dynamic axes."""

from __future__ import annotations

import torch
from torch import nn

from hiif_deploy.bundle.contract import DecoderContract, Precision
from hiif_export.decoders.hiif_modules import Fold, HiifDecoder, HiifMaps
from hiif_export.decoders.hiif_stages import First, Mix, Tail, key_value
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
from hiif_training.models.hiif import Hiif


class HiifExporter(DecoderExporter):
    """HIIF: a statistics pass and a fold per attention block."""

    model: Hiif

    def maps_graph(self, precision: Precision) -> Graph:
        """Features → four products of the first layer, and moments (decoding.md §3a)."""
        return _maps_graph(self.model, precision)

    def statistics_graphs(self, precision: Precision) -> list[Graph]:
        """One statistics graph per attention block."""
        return [_statistics_graph(self.model, n, precision) for n in range(self.model.config.attention_blocks)]

    def fold_graphs(self) -> list[Graph]:
        """One fold graph per attention block."""
        return [_fold_graph(self.model, n) for n in range(self.model.config.attention_blocks)]

    def decoder_graph(self, precision: Precision) -> Graph:
        """Maps and folded attention → colours, through all levels."""
        return _decoder_graph(self.model, precision)

    def stage_graphs(self) -> list[Graph]:
        """The parts of `hiif_stages`, one graph each."""
        return hiif_stages(self.model)

    def contract(self) -> DecoderContract:
        """Contract of a decoder with coupled queries, a halo of one pixel and position bits."""
        config, traits = self.model.config, self.model.traits
        return DecoderContract(
            halo=1,
            statistics_passes=config.attention_blocks,
            map_channels=4 * config.mlp_dim + 2 + 2 * config.hidden_dim,
            query_channels=8 * max(config.mlp_dim, config.hidden_dim),
            levels=config.levels,
            bits=config.bits,
            skip=traits.skip,
            clips_cell=traits.clips_cell,
        )


def hiif_graphs(model: Hiif, precision: Precision = "fp32") -> list[Graph]:
    """Return all graphs of `HiifExporter` for one precision."""
    return HiifExporter(model).graphs(precision)


def hiif_stages(model: Hiif) -> list[Graph]:
    """Return the statistics and decoder graphs split between passes (fp32).

    The results of one pass can then be cached for the next, and each part can run in a precision of its own.
    """
    blocks, config = model.config.attention_blocks, model.config
    states = [config.mlp_dim, *[config.hidden_dim] * blocks]

    def state(n: int) -> Inputs:
        return {f"state_{n}": (torch.ones(35, states[n]), ("queries", states[n]))}

    def graph(name: str, module: nn.Module, inputs: Inputs, outputs: Shapes) -> Graph:
        return Graph(name, typed(module, torch.float32), inputs, outputs, {})

    inputs = {**_map_inputs(model, torch.float32), **_geometry_inputs(model)}
    found = [graph("first", First(model), inputs, shapes(state(0)))]
    for n in range(blocks):
        found.append(graph(f"sums_{n}", key_value(model, n), state(n), shapes(_sums(model))))
        if n + 1 < blocks:
            inputs = {**state(n), **_folded(model, n, torch.float32)}
            found.append(graph(f"mix_{n}", Mix(model, n), inputs, shapes(state(n + 1))))
    last = max(0, blocks - 1)
    inputs = {**state(last), **_position_inputs(model)}
    if blocks:
        inputs |= _folded(model, last, torch.float32)
    return [*found, graph("tail", Tail(model), inputs, {"colour": ("queries", 3)})]


def _maps_graph(model: Hiif, precision: Precision) -> Graph:
    compute = COMPUTE[precision]
    inputs = features_input(model.freq.in_channels, precision)
    return Graph("maps", typed(HiifMaps(model), compute), inputs, shapes(_map_inputs(model, compute)), {}, precision)


def _statistics_graph(model: Hiif, n: int, precision: Precision) -> Graph:
    compute = COMPUTE[precision]
    module = typed(HiifDecoder(model, n, compute), compute)
    return Graph(f"statistics_{n}", module, _decoder_inputs(model, n, compute), shapes(_sums(model)), {}, precision)


def _decoder_graph(model: Hiif, precision: Precision) -> Graph:
    compute = COMPUTE[precision]
    outputs: Shapes = {"colour": ("queries", 3)}
    module = typed(HiifDecoder(model, None, compute), compute)
    inputs = _decoder_inputs(model, model.config.attention_blocks, compute)
    return Graph("decoder", module, inputs, outputs, {}, precision)


def _fold_graph(model: Hiif, n: int) -> Graph:
    count = torch.ones(1, dtype=torch.float64)
    outputs = shapes(_folded(model, n, torch.float32))
    inputs: Inputs = {**_sums(model), "count": (count, (1,))}
    return Graph(f"fold_{n}", Fold(model.attention[n]).eval(), inputs, outputs, {})


def _decoder_inputs(model: Hiif, applied: int, compute: torch.dtype) -> Inputs:
    folded = {name: value for n in range(applied) for name, value in _folded(model, n, compute).items()}
    return {**_map_inputs(model, compute), **_geometry_inputs(model), **folded}


def _map_inputs(model: Hiif, compute: torch.dtype) -> Inputs:
    found: Inputs = {}
    for k in range(4):
        found |= map_input(f"map_{k}", model.config.mlp_dim, compute)
    return found | map_input("moments", 2, torch.float32)


def _geometry_inputs(model: Hiif) -> Inputs:
    geometry = {**axis_inputs("tap", 2, torch.int32), **axis_inputs("distance", 2)}
    return {**geometry, **_position_inputs(model), **cell_input()}


def _position_inputs(model: Hiif) -> Inputs:
    if model.config.hierarchy == "coordinates":
        return axis_inputs("local", 1)
    return axis_inputs("bits", model.config.levels, torch.int32)


def _folded(model: Hiif, n: int, compute: torch.dtype) -> Inputs:
    width = model.config.hidden_dim
    return {
        f"attention_{n}_weight": (torch.zeros(width, width, dtype=compute), (width, width)),
        f"attention_{n}_bias": (torch.zeros(width, dtype=compute), (width,)),
    }


def _sums(model: Hiif) -> Inputs:
    heads = model.config.heads
    size = model.config.hidden_dim // heads
    return {
        "outer": (torch.zeros(heads, size, size, dtype=torch.float64), (heads, size, size)),
        "key": (torch.zeros(heads, size, dtype=torch.float64), (heads, size)),
        "value": (torch.zeros(heads, size, dtype=torch.float64), (heads, size)),
    }
