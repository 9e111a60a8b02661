"""SwinIR encoder without upsampling (Liang et al. 2021, arXiv 2108.10257; keys of the public code).

Tokens stay a picture [B, H, W, C], channels last, throughout. Everything that depends on H and W is computed from them
in the call, so that one exported graph serves every size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError, FrameError
from hiif_training.models.encoders.convolution import convolution

FORBIDDEN = -100.0
"""Added to the score of two pixels of one window that are not neighbours in the picture."""


@dataclass(frozen=True)
class SwinirConfig:
    """Sizes of a SwinIR encoder; the defaults are those of the published classical model."""

    window: int = 8
    """Side of the attention windows, even. Both sides of the picture must be multiples of it."""
    embed: int = 180
    """Channels inside the transformer; each entry of `heads` divides it."""
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    """Transformer blocks of each residual group; every second block attends in shifted windows."""
    heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    """Attention heads of each residual group."""
    mlp_ratio: float = 2.0
    """Hidden width of each block's MLP over `embed`."""
    features: int = 64
    """Channels of the output; 0 leaves the last convolution out, so that there are `embed` channels (as CiaoSR
    does)."""
    colours: int = 3
    """Number of channels of the picture."""
    image_size: int = 48
    """Picture side for which the `attn_mask` buffers of the state dict are shaped; nothing reads them."""

    def __post_init__(self) -> None:
        sizes = (self.window, self.embed, self.colours, *self.depths, *self.heads)
        if not self.depths or min(sizes) < 1 or self.features < 0 or int(self.embed * self.mlp_ratio) < 1:
            raise CheckpointError(f"SwinIR sizes out of range: {self}")
        if len(self.depths) != len(self.heads):
            raise CheckpointError(f"SwinIR has {len(self.depths)} depths but {len(self.heads)} heads")
        if any(self.embed % heads for heads in self.heads):
            raise CheckpointError(f"SwinIR embed {self.embed} is not a multiple of every one of {self.heads} heads")
        if self.window % 2:
            raise CheckpointError(f"SwinIR window is {self.window}: expected an even number")
        if self.image_size <= self.window or self.image_size % self.window:
            raise CheckpointError(
                f"SwinIR image_size is {self.image_size}: expected a larger multiple of window {self.window}"
            )


class Swinir(nn.Module):
    """Picture [B, 3, H, W] (normalised) → features [B, features, H, W], same dtype."""

    receptive_field: int | None = None
    """Pixels that each feature sees to every side (None where there is no bound)."""

    output_layer = None
    """No single layer gives the features."""

    def __init__(self, config: SwinirConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.features or config.embed
        """Number of channels of the features."""
        self.size_multiple = config.window
        """Both sides of the picture must be multiples of this; padding is the caller's work."""
        width = config.embed
        scores = max(config.heads) * config.window**2
        self.memory_channels = 10 * width + 3 * scores
        """float32 values per pixel alive at the peak of an inference, an upper estimate."""
        self.conv_first = convolution(config.colours, width)
        self.patch_embed = _PatchEmbedding(width)
        self.layers = nn.ModuleList(
            _ResidualGroup(config, depth, heads) for depth, heads in zip(config.depths, config.heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = convolution(width, width)
        if config.features:
            self.conv_before_upsample = nn.Sequential(convolution(width, config.features), nn.LeakyReLU(0.01))
        self.apply(_initialise)

    @property
    def input_layer(self) -> nn.Conv2d:
        """The layer that reads the picture."""
        return self.conv_first

    def forward(self, image: Tensor) -> Tensor:
        """Normalised picture [B, 3, H, W] → features [B, features, H, W].

        FrameError unless H and W are multiples of `size_multiple`.
        """
        height, width = image.shape[2:]
        self._check(height, width)
        shallow: Tensor = self.conv_first(image)
        mask = shift_mask(height, width, self.config.window, image)
        tokens = self.patch_embed.norm(_channels_last(shallow))
        for group in self.layers:
            tokens = group(tokens, mask)
        deep: Tensor = self.conv_after_body(_channels_first(self.norm(tokens)))
        if not self.config.features:
            return deep + shallow
        features: Tensor = self.conv_before_upsample(deep + shallow)
        return features

    def _check(self, height: int, width: int) -> None:
        if height % self.size_multiple or width % self.size_multiple:
            raise FrameError(
                f"SwinIR got a picture of {width}×{height} pixels: expected both sides to be multiples of "
                f"{self.size_multiple}; pad the picture first and crop the result"
            )


class _PatchEmbedding(nn.Module):
    """The norm of the patch embedding; patches are single pixels, so nothing else is left of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)


class _ResidualGroup(nn.Module):
    def __init__(self, config: SwinirConfig, depth: int, heads: int) -> None:
        super().__init__()
        self.residual_group = _Blocks(config, depth, heads)
        self.conv = convolution(config.embed, config.embed)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [B, H, W, C] to the same shape; `mask` as `shift_mask` returns it."""
        deep = self.conv(_channels_first(self.residual_group(x, mask)))
        return x + _channels_last(deep)


class _Blocks(nn.Module):
    def __init__(self, config: SwinirConfig, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(config, heads, shifted=n % 2 == 1) for n in range(depth))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [B, H, W, C] to the same shape; `mask` as `shift_mask` returns it."""
        for block in self.blocks:
            x = block(x, mask)
        return x


class _Block(nn.Module):
    """Window attention and MLP, each behind a LayerNorm and added to its input."""

    def __init__(self, config: SwinirConfig, heads: int, shifted: bool) -> None:
        super().__init__()
        self.window = config.window
        self.shift = config.window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(config.embed)
        self.attn = _WindowAttention(config.embed, heads, config.window)
        self.norm2 = nn.LayerNorm(config.embed)
        self.mlp = _Mlp(config.embed, int(config.embed * config.mlp_ratio))
        if shifted:
            mask = shift_mask(config.image_size, config.image_size, config.window, torch.empty(0))
            self.register_buffer("attn_mask", mask)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [B, H, W, C] to the same shape; `mask` as `shift_mask` returns it."""
        x = x + (self._attend_shifted(self.norm1(x), mask) if self.shift else self._attend(self.norm1(x)))
        y: Tensor = self.mlp(self.norm2(x))
        return x + y

    def _attend_shifted(self, x: Tensor, mask: Tensor) -> Tensor:
        rolled = _roll(_roll(x, 1, self.shift), 2, self.shift)
        return _roll(_roll(self._attend(rolled, mask), 1, -self.shift), 2, -self.shift)

    def _attend(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        _, height, width, _ = x.shape
        attended = self.attn(partition(x, self.window), mask)
        return merge(attended, self.window, height, width)


class _WindowAttention(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_position_index(window))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map [B, windows, pixels, C] to the same shape; `mask` is [windows, pixels, pixels]."""
        batch, windows, pixels, width = x.shape
        qkv = self.qkv(x).reshape(batch, windows, pixels, 3 * self.heads, width // self.heads)
        query, key, value = qkv.transpose(2, 3).chunk(3, dim=2)
        scores = (query * self.scale) @ key.transpose(-2, -1) + self._bias()
        if mask is not None:
            scores = scores + mask[:, None]
        attended = scores.softmax(-1) @ value
        merged: Tensor = self.proj(attended.transpose(2, 3).reshape(batch, windows, pixels, width))
        return merged

    def _bias(self) -> Tensor:
        """Return the relative position bias [heads, pixels, pixels]."""
        index = self.get_buffer("relative_position_index")
        bias = self.relative_position_bias_table.index_select(0, index.flatten())
        return bias.view(*index.shape, self.heads).permute(2, 0, 1)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to the same shape."""
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return y


def partition(x: Tensor, window: int) -> Tensor:
    """Split [B, H, W, C] into [B, windows, window², C], windows and their pixels in row-major order."""
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    tiles = x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
    return tiles.reshape(batch, rows * columns, window * window, channels)


def merge(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo `partition`: [B, windows, window², C] → [B, height, width, C]."""
    batch, _, _, channels = windows.shape
    rows, columns = height // window, width // window
    tiles = windows.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    return tiles.reshape(batch, height, width, channels)


def shift_mask(height: int, width: int, window: int, like: Tensor) -> Tensor:
    """Return [windows, window², window²]: 0 where two pixels are neighbours in the picture, else `FORBIDDEN`.

    Rolling by half a window brings the picture's first rows (columns) into the second half of the last window row
    (column), next to rows (columns) that are far away in the picture. Dtype and device are those of `like`.
    """
    rows, columns = height // window, width // window
    second = torch.arange(window, device=like.device) >= window - window // 2
    below, right = second.repeat_interleave(window), second.repeat(window)
    rows_part = below[:, None] != below
    columns_part = right[:, None] != right
    last_row = (torch.arange(rows, device=like.device) == rows - 1)[:, None, None, None]
    last_column = (torch.arange(columns, device=like.device) == columns - 1)[:, None, None]
    apart = (last_row & rows_part) | (last_column & columns_part)
    return apart.reshape(rows * columns, window**2, window**2).to(like.dtype) * FORBIDDEN


def _roll(x: Tensor, axis: int, by: int) -> Tensor:
    """Roll by `by` pixels towards the start of the axis.

    Written with lengths (not with `torch.roll`, nor with open slices) so that the exporter can prove that the size is
    unchanged.
    """
    size = x.shape[axis]
    start = by if by >= 0 else size + by
    return torch.cat([x.narrow(axis, start, size - start), x.narrow(axis, 0, start)], dim=axis)


def _relative_position_index(window: int) -> Tensor:
    """[window², window²]: the row of the bias table for each pair of pixels."""
    row, column = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
    down = row[:, None] - row + window - 1
    across = column[:, None] - column + window - 1
    return down * (2 * window - 1) + across


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _initialise(module: nn.Module) -> None:
    """Initialise linear layers from a narrow normal distribution, as the published training does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
