"""Exports HIIF: which modules, which named tensors, which dynamic axes."""

from collections.abc import Sequence

import torch
from torch import nn

from hiif_deploy.bundle.contract import DecoderContract
from hiif_export.decoders.coupled_export import CoupledExporter
from hiif_export.decoders.hiif_modules import HiifDecoder, HiifMaps
from hiif_export.decoders.hiif_stages import First, Mix, Tail, key_value
from hiif_export.graphs.exporter import Inputs, axis_inputs, cell_input, map_input, map_inputs
from hiif_training.models.hiif import Hiif, LinearAttention


class HiifExporter(CoupledExporter):
    """HIIF: any number of attention blocks, hierarchical position bits."""

    model: Hiif
    maps_module = HiifMaps

    def maps(self, compute: torch.dtype) -> Inputs:
        """Four products of the first layer, and moments (decoding.md §3a)."""
        return map_inputs([self.model.config.mlp_dim] * 4, compute) | map_input("moments", 2, torch.float32)

    def geometry(self) -> Inputs:
        """Tables of the four corners, the position bits, and the cell."""
        corners = {**axis_inputs("tap", 2, torch.int32), **axis_inputs("distance", 2)}
        return {**corners, **self.tail_geometry(), **cell_input()}

    def tail_geometry(self) -> Inputs:
        """Position bits of all levels, or local coordinates."""
        if self.model.config.hierarchy == "coordinates":
            return axis_inputs("local", 1)
        return axis_inputs("bits", self.model.config.levels, torch.int32)

    @property
    def blocks(self) -> Sequence[LinearAttention]:
        """Attention blocks, in order."""
        return self.model.attention

    def state_widths(self) -> Sequence[int]:
        """Width of each state: level 0's activation, then the levels' width."""
        return [self.model.config.mlp_dim, *[self.model.config.hidden_dim] * self.model.config.attention_blocks]

    def applied(self, count: int, compute: torch.dtype) -> nn.Module:
        """The decoder with `count` blocks applied."""
        return HiifDecoder(self.model, None if count == self.model.config.attention_blocks else count, compute)

    def stage(self, kind: str, n: int) -> nn.Module:
        """Module of a stage."""
        if kind in ("first", "tail"):
            return First(self.model) if kind == "first" else Tail(self.model)
        return key_value(self.model, n) if kind == "sums" else Mix(self.model, n)

    def contract(self) -> DecoderContract:
        """Contract of a decoder with coupled queries, a halo of one pixel and position bits."""
        config = self.model.config
        return self.make_contract(
            halo=1, statistics_passes=config.attention_blocks, levels=config.levels, bits=config.bits,
            map_channels=4 * config.mlp_dim + 2 + 2 * config.hidden_dim,
            query_channels=8 * max(config.mlp_dim, config.hidden_dim),
        )  # fmt: skip
