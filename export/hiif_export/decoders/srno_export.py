"""Exports SRNO; `srno_modules` explains the restructuring."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import nn

from hiif_deploy.bundle.contract import DecoderContract
from hiif_export.decoders import srno_modules as modules
from hiif_export.decoders.coupled_export import CoupledExporter
from hiif_export.decoders.hiif_modules import Attention
from hiif_export.graphs.exporter import Inputs, map_inputs
from hiif_training.models.hiif import LinearAttention
from hiif_training.models.srno import Srno


class SrnoExporter(CoupledExporter):
    """SRNO: two attention blocks."""

    model: Srno
    maps_module = modules.SrnoMaps

    def maps(self, compute: torch.dtype) -> Inputs:
        """The input layer's product with each corner's features."""
        return map_inputs([self.model.config.width] * 4, compute)

    @cached_property
    def blocks(self) -> Sequence[LinearAttention]:
        """Attention blocks, as HIIF's."""
        return [modules.as_linear_attention(block) for block in (self.model.conv0, self.model.conv1)]

    def state_widths(self) -> Sequence[int]:
        """Width of each state."""
        return [self.model.config.width] * modules.BLOCKS

    def applied(self, count: int, compute: torch.dtype) -> nn.Module:
        """The decoder with `count` blocks applied."""
        return modules.SrnoDecoder(self.model, count, compute)

    def stage(self, kind: str, n: int) -> nn.Module:
        """Module of a stage."""
        if kind in ("first", "tail"):
            return modules.SrnoFirst(self.model) if kind == "first" else modules.SrnoTail(self.model)
        if kind == "sums":
            return modules.SrnoKeyValue(self.model.conv1 if n else self.model.conv0)
        return Attention(self.blocks[n])

    def contract(self) -> DecoderContract:
        """Contract of a decoder with coupled queries and four maps."""
        width, passes = self.model.config.width, modules.BLOCKS
        return self.make_contract(halo=0, statistics_passes=passes, map_channels=4 * width, query_channels=8 * width)
