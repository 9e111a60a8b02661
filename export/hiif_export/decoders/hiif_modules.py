"""HIIF restructured for deployment: equal to `hiif_training.models.hiif` up to rounding, 25 % fewer operations.

The encoder's features become maps at source resolution; a statistics graph per attention block sums KᵀV over any number
of queries; a fold graph turns the sums into one matrix; the decoder graph returns colours. Weights are composed in
float64. Derivations: design/decoding.md; each class names the step it restructures.

The same modules serve both precisions (`precision.py`): matrix products take and return the dtype of their weights, and
`wide` converts to float32 what half precision cannot hold: moments, statistics, LayerNorm, tables, the sum over the
corners.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from hiif_export.graphs.corners import corner_pixels, corner_weights
from hiif_export.graphs.precision import fit, wide
from hiif_training.models.hiif import Hiif, Level, LinearAttention


class HiifMaps(nn.Module):
    """Features of a tile → four maps and moments, one row per pixel.

    Map k is the first layer's product with corner k's features: the LayerNorm's scale is in the weights and its mean is
    subtracted from them, so that no mean is subtracted later. Moments are Σf and Σf² over the channels.
    """

    weight: Tensor

    def __init__(self, model: Hiif) -> None:
        super().__init__()
        width = model.config.hidden_dim
        self.convolution = nn.Conv2d(model.freq.in_channels, width, 3)
        self.convolution.load_state_dict(model.freq.state_dict())
        weight = centred_first_layer(cast(Level, model.fc_layers[0]))[:, : 4 * width]
        self.register_buffer("weight", torch.cat([w.T for w in torch.split(weight, width, dim=1)], dim=1))
        self.outputs = model.config.mlp_dim

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Features [1, C, b + 2, w + 2] of b × w pixels and a halo of one → four maps [b·w, M] and moments [b·w, 2].

        Pixels are row-major, without the halo; beyond the picture's border the halo is zero.
        """
        local: Tensor = self.convolution(features)
        rows = local.flatten(2).transpose(1, 2)[0]
        maps = torch.split(rows @ self.weight, self.outputs, dim=1)
        rows = wide(rows)
        return *maps, torch.stack([rows.sum(1), (rows * rows).sum(1)], dim=1)


class FirstLevel(nn.Module):
    """Level 0 up to its GELU: gather four maps, weigh, normalise (decoding.md §3a)."""

    cell_weight: Tensor
    bias: Tensor

    def __init__(self, model: Hiif) -> None:
        super().__init__()
        level = cast(Level, model.fc_layers[0])
        width = 4 * model.config.hidden_dim
        self.inputs = level.norm.normalized_shape[0]
        self.epsilon = level.norm.eps
        weight = centred_first_layer(level)
        self.register_buffer("cell_weight", weight[:, width : width + 2].T.contiguous())
        self.position = make_position(model, 0, weight[:, width + 2 :])
        self.register_buffer("bias", first_bias(level))

    def forward(
        self, maps: list[Tensor], moments: Tensor, taps: list[Tensor], distances: list[Tensor],
        positions: list[Tensor], cell: Tensor,
    ) -> Tensor:  # fmt: skip
        """Maps [P, M], moments [P, 2] and axis tables → hidden activations [R·W, M] of R × W queries, row-major."""
        index = corner_pixels(taps[0], taps[1])
        weight = corner_weights(distances[0], distances[1])
        total, square = self.position.moments(positions)
        mean, power = total + cell.sum(), square + (cell * cell).sum()
        hidden = torch.zeros(())
        for k in range(4):
            local = embedding(index[k], moments)
            mean = mean + weight[k] * local[:, 0:1]
            power = power + weight[k] * weight[k] * local[:, 1:2]
            product = wide(embedding(index[k], maps[k])) * weight[k]
            hidden = product if k == 0 else hidden + product
        mean, power = mean / self.inputs, power / self.inputs
        scale = (power - mean * mean + self.epsilon).rsqrt()
        hidden = hidden + self.position(positions, cell @ self.cell_weight)
        return nn.functional.gelu(hidden * scale + self.bias).to(maps[0].dtype)


class LaterLevel(nn.Module):
    """Levels 1 and up: LayerNorm over [x | position] without building that row (decoding.md §3d)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, model: Hiif, n: int, compute: torch.dtype = torch.float32) -> None:
        super().__init__()
        level = cast(Level, model.fc_layers[n])
        width = model.config.hidden_dim
        self.inputs = level.norm.normalized_shape[0]
        self.epsilon = level.norm.eps
        weight = centred_first_layer(level)
        self.range = fit(weight[:, :width], compute)
        self.register_buffer("weight", (weight[:, :width] / self.range).T.contiguous())
        self.register_buffer("bias", first_bias(level))
        self.position = make_position(model, n, weight[:, width:]) if model.config.position_width(n) else None
        self.second = second_layer(level)
        self.has_shortcut = level.has_shortcut

    def forward(self, x: Tensor, positions: list[Tensor]) -> Tensor:
        """State [N, width] → [N, width], or colours [N, 3] in the last level."""
        rows = wide(x)
        total, square = rows.sum(1, keepdim=True), (rows * rows).sum(1, keepdim=True)
        hidden = grown(wide(x @ self.weight), self.range)
        if self.position is not None:
            position_total, position_square = self.position.moments(positions)
            total, square = total + position_total, square + position_square
            hidden = hidden + self.position(positions, None)
        mean = total / self.inputs
        scale = (square / self.inputs - mean * mean + self.epsilon).rsqrt()
        y: Tensor = self.second(nn.functional.gelu(hidden * scale + self.bias).to(x.dtype))
        return x + y if self.has_shortcut else y


class BitTable(nn.Module):
    """Position product for two bits: they take four values, so their product with the weights is a table of four
    rows."""

    table: Tensor

    def __init__(self, level: int, weight: Tensor) -> None:
        super().__init__()
        self.level = level
        codes = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=weight.dtype)
        self.register_buffer("table", codes @ weight.T)

    def forward(self, positions: list[Tensor], constant: Tensor | None) -> Tensor:
        """Return the product [N, M] for the level's bits; `constant` [M] is added to every row."""
        table = self.table if constant is None else self.table + constant
        code = 2 * positions[0][self.level] + positions[1][self.level]
        return embedding(code.flatten(), table)

    def moments(self, positions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the sum of the bits [N, 1] twice: a bit equals its square."""
        total = (positions[0][self.level] + positions[1][self.level]).reshape(-1, 1).to(self.table.dtype)
        return total, total


class LinearPosition(nn.Module):
    """Position product for any values per row and column: a row part plus a column part (v1-H, v2-MS)."""

    row_weight: Tensor
    column_weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("row_weight", weight[:, 0::2].T.contiguous())
        self.register_buffer("column_weight", weight[:, 1::2].T.contiguous())

    def forward(self, positions: list[Tensor], constant: Tensor | None) -> Tensor:
        """Return the product [N, M] for values [V, R, 1] and [V, 1, W]; `constant` [M] is added to every row."""
        rows, columns = (value.to(self.row_weight.dtype) for value in positions)
        row_part = rows.permute(1, 2, 0) @ self.row_weight
        column_part = columns.permute(1, 2, 0) @ self.column_weight
        whole = (row_part + column_part).flatten(0, 1)
        return whole if constant is None else whole + constant

    def moments(self, positions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return Σ and Σ² of all position values of a query, each [N, 1]."""
        rows, columns = (value.to(self.row_weight.dtype) for value in positions)
        total = rows.sum(0) + columns.sum(0)
        square = (rows * rows).sum(0) + (columns * columns).sum(0)
        return total.reshape(-1, 1), square.reshape(-1, 1)


class KeyValue(nn.Module):
    """k̂ and v̂ (before the affine of their LayerNorms) and their sums over the queries (decoding.md §3c)."""

    def __init__(
        self, attention: LinearAttention, before: nn.Linear | None, compute: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.heads = attention.heads
        _, weight_k, weight_v = split_heads(attention.qkv_proj.weight.double(), attention.heads)
        _, bias_k, bias_v = split_heads(attention.qkv_proj.bias.double(), attention.heads)
        weight = torch.cat([centre_heads(weight_k), centre_heads(weight_v)]).flatten(0, 1)
        bias = torch.cat([centre_heads(bias_k), centre_heads(bias_v)]).flatten()
        if before is not None:
            bias = weight @ before.bias.double() + bias
            weight = weight @ before.weight.double()
        # LayerNorm takes any factor out again, so the product may be as small as half precision likes it.
        shrink = fit(torch.cat([weight, bias[:, None]], dim=1), compute)
        self.epsilon = attention.kln.eps / shrink**2
        self.projection = linear(weight / shrink, bias / shrink)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, width] → Σ k̂ᵀv̂ [heads, d, d], Σ k̂ [heads, d], Σ v̂ [heads, d]."""
        # Queries along the last axis: what is done per head, and the sums, then run over contiguous numbers.
        both = wide(self.projection.weight @ x.T + self.projection.bias[:, None])
        both = both.reshape(2 * self.heads, -1, both.shape[1])
        both = both * self.inverse_deviation(both)
        key, value = both[: self.heads], both[self.heads :]
        return key @ value.transpose(1, 2), key.sum(2), value.sum(2)

    def inverse_deviation(self, both: Tensor) -> Tensor:
        """Centred values [2·heads, d, N] → reciprocal deviations [2·heads, 1, N]."""
        return ((both * both).mean(1, keepdim=True) + self.epsilon).rsqrt()


class Fold(nn.Module):
    """Sums and their count → the single matrix of attention and its first projection (decoding.md §3b)."""

    query: Tensor
    query_bias: Tensor
    projection: Tensor
    projection_bias: Tensor
    identity: Tensor
    key_scale: Tensor
    key_shift: Tensor
    value_scale: Tensor
    value_shift: Tensor

    def __init__(self, attention: LinearAttention, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        heads, width = attention.heads, attention.qkv_proj.in_features
        query, _, _ = split_heads(attention.qkv_proj.weight.double(), heads)
        query_bias, _, _ = split_heads(attention.qkv_proj.bias.double(), heads)
        # The variant with one projection calls it `proj`.
        first = cast(nn.Linear, getattr(attention, "proj1", None) or attention.get_submodule("proj"))
        self.register_buffer("query", query)
        self.register_buffer("query_bias", query_bias[:, :, None])
        self.register_buffer("projection", first.weight.double())
        self.register_buffer("projection_bias", first.bias.double())
        self.register_buffer("identity", torch.eye(width, dtype=torch.float64))
        for name, norm in (("key", attention.kln), ("value", attention.vln)):
            self.register_buffer(f"{name}_scale", norm.weight.double())
            self.register_buffer(f"{name}_shift", norm.bias.double())

    def forward(self, outer: Tensor, key: Tensor, value: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """float64 sums [heads, d, d], [heads, d] twice, and count [1] → weight [width, width], bias [width] of `dtype`.

        The weight is for rows: x @ weight + bias is proj1 of (x + attention of x).
        """
        scaled_key, scaled_value = key * self.key_scale, value * self.value_scale
        total = (
            outer * self.key_scale[..., :, None] * self.value_scale[..., None, :]
            + scaled_key[:, :, None] * self.value_shift[..., None, :]
            + self.key_shift[..., :, None] * scaled_value[:, None, :]
        )
        average = (total / count + self.key_shift[..., :, None] * self.value_shift[..., None, :]).transpose(1, 2)
        attended = (average @ self.query).flatten(0, 1)
        attended_bias = (average @ self.query_bias).flatten()
        weight = self.projection @ (self.identity + attended)
        bias = self.projection @ attended_bias + self.projection_bias
        return weight.T.to(self.dtype), bias.to(self.dtype)


class Attention(nn.Module):
    """One attention block with its folded matrix: x + proj2(GELU(x @ weight + bias))."""

    def __init__(self, attention: LinearAttention) -> None:
        super().__init__()
        second = getattr(attention, "proj2", None)
        self.second = None if second is None else linear(second.weight.double(), second.bias.double())

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """State [N, width], folded matrix [width, width] and bias [width] → [N, width]."""
        y = nn.functional.gelu(x @ weight + bias)
        return x + (y if self.second is None else self.second(y))


class HiifDecoder(nn.Module):
    """Maps, geometry and folded attention → colours [N, 3], or the sums of attention block `block`."""

    def __init__(self, model: Hiif, block: int | None = None, compute: torch.dtype = torch.float32) -> None:
        super().__init__()
        blocks = model.config.attention_blocks
        self.applied = blocks if block is None else block
        """Number of folded attention blocks among the inputs."""
        self.first = FirstLevel(model)
        level = cast(Level, model.fc_layers[0])
        self.second = second_layer(level) if self.applied or block is None else None
        self.attention = nn.ModuleList(Attention(a) for a in model.attention[: self.applied])
        self.key_value = None
        self.levels = nn.ModuleList()
        if block is None:
            self.levels.extend(LaterLevel(model, n, compute) for n in range(1, model.config.levels))
        else:
            before = None if self.second is not None else level.fc2
            self.key_value = KeyValue(model.attention[block], before, compute)

    def forward(
        self, map_0: Tensor, map_1: Tensor, map_2: Tensor, map_3: Tensor, moments: Tensor,
        row_tap: Tensor, column_tap: Tensor, row_distance: Tensor, column_distance: Tensor,
        row_position: Tensor, column_position: Tensor, cell: Tensor, *folded: Tensor,
    ) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
        """Maps [P, M], moments [P, 2], axis tables and folded attention → colours [R·W, 3], or a block's sums.

        R × W queries, row-major: taps (int32) and distances [2, R, 1] and [2, 1, W], positions [V, R, 1] and [V, 1, W],
        `cell` [2]; `folded` is weight [width, width] and bias [width] of each applied block.
        """
        positions = [row_position, column_position]
        x: Tensor = self.first(
            [map_0, map_1, map_2, map_3], moments, [row_tap, column_tap],
            [row_distance, column_distance], positions, cell,
        )  # fmt: skip
        if self.second is not None:
            x = self.second(x)
        for n, attention in enumerate(self.attention):
            x = attention(x, folded[2 * n], folded[2 * n + 1])
        if self.key_value is not None:
            return cast(tuple[Tensor, ...], self.key_value(x))
        for level in self.levels:
            x = level(x, positions)
        return wide(x)


def grown(x: Tensor, factor: float) -> Tensor:
    """Return x · factor for a tensor [...]; no operation is exported where the factor is 1."""
    return x if factor == 1 else x * factor


def make_position(model: Hiif, level: int, weight: Tensor) -> BitTable | LinearPosition:
    """Return the position part of a level's first layer, for centred weights [M, values]."""
    return BitTable(level, weight) if model.config.hierarchy == "levels" else LinearPosition(weight)


def centred_first_layer(level: Level) -> Tensor:
    """Return fc1 with the LayerNorm's scale folded in and each row's mean removed, float64 [M, inputs]."""
    weight = level.fc1.weight.double() * level.norm.weight.double()
    return weight - weight.mean(dim=1, keepdim=True)


def first_bias(level: Level) -> Tensor:
    """Return fc1's bias with the LayerNorm's shift folded in, float64 [M]."""
    return level.fc1.weight.double() @ level.norm.bias.double() + level.fc1.bias.double()


def second_layer(level: Level) -> nn.Linear:
    """Return a copy of fc2 in float64."""
    return linear(level.fc2.weight.double(), level.fc2.bias.double())


def split_heads(rows: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split qkv rows [3·heads·d, …], [q|k|v] interleaved per head, into three of [heads, d, …] (design/model.md H8)."""
    query, key, value = rows.reshape(heads, 3, -1, *rows.shape[1:]).unbind(1)
    return query, key, value


def centre_heads(rows: Tensor) -> Tensor:
    """Subtract the mean over d from [heads, d, …], so that LayerNorm needs no mean afterwards."""
    return rows - rows.mean(dim=1, keepdim=True)


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a float64 Linear with these weights [outputs, inputs] and this bias [outputs]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer
