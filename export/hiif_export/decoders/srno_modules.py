"""SRNO restructured for deployment: equal to `hiif_training.models.srno` up to rounding, a quarter fewer operations.

The input layer has neither norm nor activation, so its product with each corner's features is a map. Attention is
summed in passes and folded into one matrix as for HIIF (design/decoding.md §3b, 3c).
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu

from hiif_export.decoders import hiif_modules
from hiif_export.decoders.corner_network import copied
from hiif_export.decoders.hiif_modules import Attention
from hiif_export.graphs.corners import corner_pixels, corner_relatives, corner_weights
from hiif_export.graphs.precision import wide
from hiif_training.models.hiif import LinearAttention
from hiif_training.models.srno import EPSILON, POSITION, GalerkinAttention, Srno

BLOCKS = 2
"""Number of attention blocks in every SRNO."""


class SrnoMaps(nn.Module):
    """The input layer's product with the features as corner k's, for each of the four corners."""

    weight: Tensor

    def __init__(self, model: Srno) -> None:
        super().__init__()
        self.width = model.config.width
        features = _input_weight(model)[:, POSITION:-2]
        parts = torch.split(features, model.encoder.out_channels, dim=1)
        self.register_buffer("weight", torch.cat([part.T for part in parts], dim=1))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features [1, C, b, w] → four maps [b·w, M], row-major."""
        rows = features.flatten(2).transpose(1, 2)[0]
        return torch.split(rows @ self.weight, self.width, dim=1)


class SrnoFirst(nn.Module):
    """The input layer: a weighted sum of four maps, plus position and cell."""

    row_weight: Tensor
    column_weight: Tensor
    cell_weight: Tensor
    bias: Tensor

    def __init__(self, model: Srno) -> None:
        super().__init__()
        weight = _input_weight(model)
        self.register_buffer("row_weight", weight[:, 0:POSITION:2].T.contiguous())
        self.register_buffer("column_weight", weight[:, 1:POSITION:2].T.contiguous())
        self.register_buffer("cell_weight", weight[:, -2:].T.contiguous())
        self.register_buffer("bias", cast(Tensor, model.conv00.bias).detach().clone())

    def forward(
        self, map_0: Tensor, map_1: Tensor, map_2: Tensor, map_3: Tensor, row_tap: Tensor, column_tap: Tensor,
        row_distance: Tensor, column_distance: Tensor, row_relative: Tensor, column_relative: Tensor, cell: Tensor,
    ) -> Tensor:  # fmt: skip
        """Maps [P, M] and axis tables → state [R·W, M] of R × W queries, row-major."""
        pixels = corner_pixels(row_tap, column_tap)
        weights = corner_weights(row_distance, column_distance)
        places = corner_relatives(row_relative, column_relative)
        x = self._place(places, cell @ self.cell_weight + self.bias)
        for k, maps in enumerate((map_0, map_1, map_2, map_3)):
            x = x + wide(embedding(pixels[k], maps)) * weights[k]
        return x.to(map_0.dtype)

    def _place(self, places: list[tuple[Tensor, Tensor]], constant: Tensor) -> Tensor:
        # Rows and columns are summed over the corners first: they meet once instead of four times.
        rows = torch.cat([row for row, _ in places], dim=2) @ self.row_weight
        columns = torch.cat([column for _, column in places], dim=2) @ self.column_weight
        return (rows + (columns + constant)).flatten(0, 1)


class SrnoKeyValue(hiif_modules.KeyValue):
    """HIIF's key and value sums with SRNO's norm."""

    def __init__(self, block: GalerkinAttention, compute: torch.dtype = torch.float32) -> None:
        super().__init__(as_linear_attention(block), None, compute)
        self.size = block.qkv_proj.in_channels // block.heads

    def inverse_deviation(self, both: Tensor) -> Tensor:
        """Centred values [2·heads, d, N] → 1 / (unbiased deviation + epsilon) [2·heads, 1, N]."""
        variance = (both * both).sum(1, keepdim=True) / (self.size - 1)
        return torch.reciprocal(variance.sqrt() + math.sqrt(self.epsilon))


class SrnoDecoder(nn.Module):
    """Maps, geometry and `applied` folded attention blocks → sums of the next block, or colours after the last."""

    def __init__(self, model: Srno, applied: int, compute: torch.dtype = torch.float32) -> None:
        super().__init__()
        blocks = [model.conv0, model.conv1]
        self.first = SrnoFirst(model)
        self.attention = nn.ModuleList(Attention(as_linear_attention(block)) for block in blocks[:applied])
        self.end = SrnoKeyValue(blocks[applied], compute) if applied < BLOCKS else SrnoColours(model)

    def forward(
        self, map_0: Tensor, map_1: Tensor, map_2: Tensor, map_3: Tensor, row_tap: Tensor, column_tap: Tensor,
        row_distance: Tensor, column_distance: Tensor, row_relative: Tensor, column_relative: Tensor, cell: Tensor,
        *folded: Tensor,
    ) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
        """Maps [P, M] and axis tables → colours [R·W, 3] of R × W queries, row-major, or a block's sums.

        Taps (int32), distances and relative positions [2, R, 1] and [2, 1, W], `cell` [2]; `folded` is weight [M, M]
        and bias [M] of each applied block.
        """
        x: Tensor = self.first(
            map_0, map_1, map_2, map_3, row_tap, column_tap,
            row_distance, column_distance, row_relative, column_relative, cell,
        )  # fmt: skip
        for n, attention in enumerate(self.attention):
            x = attention(x, folded[2 * n], folded[2 * n + 1])
        return cast("Tensor | tuple[Tensor, ...]", self.end(x))


class SrnoTail(nn.Module):
    """The last attention block and the layers after it."""

    def __init__(self, model: Srno) -> None:
        super().__init__()
        self.attention = Attention(as_linear_attention(model.conv1))
        self.colours = SrnoColours(model)

    def forward(self, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """State [N, M], folded matrix [M, M] and bias [M] → colours [N, 3]."""
        colours: Tensor = self.colours(self.attention(state, weight, bias))
        return colours


class SrnoColours(nn.Module):
    """The two layers after the last attention block."""

    def __init__(self, model: Srno) -> None:
        super().__init__()
        self.first, self.second = copied(model.fc1), copied(model.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """State [N, M] → colours [N, 3], float32 or wider."""
        return wide(self.second(gelu(self.first(x))))


def as_linear_attention(block: GalerkinAttention) -> LinearAttention:
    """Return the block as HIIF's, so that HIIF's modules serve it; norms have the weights of every head, [heads, d].

    The epsilon is squared, because HIIF adds it below the root.
    """
    width = block.qkv_proj.in_channels
    found = LinearAttention(width, block.heads, 2)
    layers = {"qkv_proj": block.qkv_proj, "proj1": block.o_proj1, "proj2": block.o_proj2}
    for name, layer in layers.items():
        found.get_submodule(name).load_state_dict(copied(layer).state_dict())
    for norm, published in ((found.kln, block.kln), (found.vln, block.vln)):
        norm.weight = nn.Parameter(published.weight.detach()[:, 0])
        norm.bias = nn.Parameter(published.bias.detach()[:, 0])
        norm.eps = EPSILON**2
    return found


def _input_weight(model: Srno) -> Tensor:
    return model.conv00.weight.detach()[:, :, 0, 0]
