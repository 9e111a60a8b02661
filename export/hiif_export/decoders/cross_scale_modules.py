"""CiaoSR's non-local branch restructured: equal to `hiif_training.models.cross_scale_attention` up to rounding.

The branch upscales with 6×6 patches and shrinks the result by a 3×3 convolution. Both are linear in the patches, so the
convolution is applied to the patches instead: each pixel then spreads 4×4 vectors around itself, 16·C values per patch
instead of 36·C, and no tensor of twice the size is built. Pixels of the first row and column spread others, because the
convolution pads with zero where the larger picture would continue.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from hiif_training.models.cross_scale_attention import MATCH, OVERLAP, SCALE, SHARPNESS, CrossScaleAttention

OFFSETS = (-1, 0, 1, 2)
"""Row (column) offsets from a pixel to those that it spreads to."""
TAPS = {-1: (1, 2), 0: (0, 1, 2), 1: (0, 1, 2), 2: (0,)}
"""Offset → rows (columns) of the 3×3 kernel that meet the patch there."""
FIRST = (1, 2)
"""Kernel rows (columns) for offset 0 from the first row (column), where row (column) 0 of the kernel meets the zero
padding."""
KINDS = ((0, 1, 2), (1, 2), (0,))
"""The different sets of kernel taps."""
PARTS = 16
"""Parts in which pixels are compared with all patches, so that memory holds the scores of one part only."""


class CrossScale(nn.Module):
    """The non-local branch as one module; `forward` accepts any size."""

    kernel: Tensor

    def __init__(self, branch: CrossScaleAttention) -> None:
        super().__init__()
        self.match, self.reference = branch.conv_match_1, branch.conv_match_2
        self.assembly = branch.conv_assembly
        self.floor = float(branch.get_buffer("escape_NaN"))
        weight = branch.down.weight.detach() / OVERLAP
        masked = [weight * _mask(rows, columns) for rows in KINDS for columns in KINDS]
        self.register_buffer("kernel", torch.cat(masked))
        self.bias = nn.Parameter(branch.down.bias.detach() / OVERLAP)  # type: ignore[union-attr]

    def forward(self, features: Tensor) -> Tensor:
        """Features [1, C, h, w] → non-local features [1, C, h, w]."""
        height, width = features.shape[2:]
        even = _even(features)
        queries = _patches(self.match(even))
        keys = _patches(self.reference(avg_pool2d(even, SCALE)))
        norm = keys.square().sum(1, keepdim=True).sqrt().clamp(min=self.floor)
        keys = (keys * (SHARPNESS / norm)).T
        spread = self._spread(queries, keys, even)
        output = (spread + self.bias).permute(2, 0, 1)[None]
        return output.narrow(2, 0, height).narrow(3, 0, width)

    def _spread(self, queries: Tensor, keys: Tensor, even: Tensor) -> Tensor:
        """Return the sum [h', w', C] of the vectors that all pixels spread."""
        channels, height, width = even.shape[1:]
        maps = self._values(even)
        grid = queries.view(height, width, queries.shape[1])
        everywhere = attend(queries, keys, _joined(maps, TAPS, TAPS)).view(height, width, 4, 4, channels)
        top = _attend(grid[0], keys, _joined(maps, {0: FIRST}, TAPS)).view(width, 4, channels)
        left = _attend(grid[:, 0], keys, _joined(maps, TAPS, {0: FIRST})).view(height, 4, channels)
        corner = _attend(grid[0, :1], keys, _joined(maps, {0: FIRST}, {0: FIRST}))
        total = torch.zeros(())
        for n, down in enumerate(OFFSETS):
            for m, right in enumerate(OFFSETS):
                part = everywhere[:, :, n, m]
                if down == 0:
                    part = torch.cat([top[None, :, m], part.narrow(0, 1, height - 1)], dim=0)
                if right == 0:
                    column = left[:, n] if down else torch.cat([corner, left[:, n].narrow(0, 1, height - 1)])
                    part = torch.cat([column[:, None], part.narrow(1, 1, width - 1)], dim=1)
                # Row y receives what row y − down spreads.
                around = pad(part, (0, 0, 2, 1, 2, 1))
                moved = around.narrow(0, 2 - down, height).narrow(1, 2 - right, width)
                total = moved if (n, m) == (0, 0) else total + moved
        return total

    def _values(self, even: Tensor) -> dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor]:
        """Return row taps, column taps → [C, h'/2 + 3, w'/2 + 3]: the kernel's part, from one patch before the
        first."""
        around = pad(self.assembly(even), (3, 4, 3, 4))
        found = conv2d(around, self.kernel, stride=SCALE)[0]
        parts = found.chunk(len(KINDS) ** 2)
        return dict(zip(((r, c) for r in KINDS for c in KINDS), parts, strict=True))


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(queries @ keys) @ values: [n, K], [K, L], [L, M] → [n, M], in `PARTS` parts of the rows."""
    count = queries.shape[0]
    size = (count + PARTS - 1) // PARTS
    rows = pad(queries, (0, 0, 0, PARTS - 1))
    parts = [_attend(rows.narrow(0, n * size, size), keys, values) for n in range(PARTS)]
    return torch.cat(parts).narrow(0, 0, count)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return (queries @ keys).softmax(1) @ values


def _joined(
    maps: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor],
    down: dict[int, tuple[int, ...]],
    right: dict[int, tuple[int, ...]],
) -> Tensor:
    """Return [L, offsets·offsets·C]: the vectors that each patch spreads to every (row, column) offset."""
    columns = []
    for row, row_taps in down.items():
        for column, column_taps in right.items():
            part = maps[row_taps, column_taps]
            height, width = part.shape[1] - 3, part.shape[2] - 3
            columns.append(part.narrow(1, 1 + row, height).narrow(2, 1 + column, width).flatten(1))
    return torch.cat(columns).T


def _even(features: Tensor) -> Tensor:
    """Mirror odd sides to even ones as `pad_even`, for sizes that are unknown at export."""
    for axis in (2, 3):
        size = features.shape[axis]
        index = torch.arange(2 * ((size + 1) // 2), device=features.device)
        mirrored = torch.where(index < size, index, size - 2).clamp(min=0)
        features = features.index_select(axis, mirrored)
    return features


def _patches(maps: Tensor) -> Tensor:
    """[1, C, h, w] → [h·w, 9·C]: 3×3 surroundings, zero beyond the border."""
    height, width = maps.shape[2:]
    around = pad(maps, (1, 1, 1, 1))
    windows = [around.narrow(2, y, height).narrow(3, x, width) for y in range(MATCH) for x in range(MATCH)]
    return torch.cat(windows, dim=1).flatten(2).transpose(1, 2)[0]


def _mask(rows: tuple[int, ...], columns: tuple[int, ...]) -> Tensor:
    mask = torch.zeros(MATCH, MATCH)
    mask[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1
    return mask
