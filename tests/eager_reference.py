"""The query geometry of design/model.md C2–C5 and H3–H5 in eager PyTorch, on the full two-dimensional grid.

The readable twin of `hiif_deploy.geometry.grid`: nothing is taken apart into axes, every source pixel is looked up
with `grid_sample`, and every operation is the float32 tensor operation that the specification names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFTS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
"""(row, column) side of the four corners, in the published order."""
SHIFT_EPSILON = 1e-6
AREA_EPSILON = 1e-9
BIT_EPSILON = 1e-9


@dataclass(frozen=True)
class EagerGrid:
    """What the decoder is asked, at every pixel of an output picture of H × W."""

    taps: Tensor
    """[4, H, W, 2] int64: (row, column) of the source pixel at each corner."""
    relative: Tensor
    """[4, H, W, 2] float32: query − tap in source pixels."""
    weights: Tensor
    """[4, H, W] float32: area of the opposite corner, over the sum."""
    local: Tensor
    """[H, W, 2] float32: position relative to corner (−, −), the border quirk included."""
    bits: Tensor
    """[levels, H, W, 2] int32."""


def make_coord(size: tuple[int, int]) -> Tensor:
    """[H, W, 2] pixel centres in [−1, 1]; scalars are formed in double, each tensor operation in float32."""
    axes = [-1 + 1 / n + (2 / n) * torch.arange(n).float() for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def eager_grid(source: tuple[int, int], target: tuple[int, int], levels: int = 6) -> EagerGrid:
    """Corner shift, look-up, relative coordinates, area weights with the diagonal swap, hierarchical bits."""
    coord = make_coord(target)
    corners = [_corner(source, coord, shift) for shift in SHIFTS]
    relative = torch.stack([(coord - centre) * (_tensor(source) / 2) for _, centre in corners])
    areas = [torch.abs(rel[..., 0] * rel[..., 1]) + AREA_EPSILON for rel in relative]
    total = areas[0] + areas[1] + areas[2] + areas[3]
    swapped = (areas[3], areas[2], areas[1], areas[0])
    local = _local(relative[0], source)
    return EagerGrid(
        taps=torch.stack([pixel for pixel, _ in corners]),
        relative=relative,
        weights=torch.stack([area / total for area in swapped]),
        local=local,
        bits=hierarchical_bits(local, levels),
    )


def hierarchical_bits(local: Tensor, levels: int) -> Tensor:
    """[levels, …] binary digits of a local coordinate, most significant first."""
    clipped = torch.clamp(local - BIT_EPSILON, 0, 1)
    return torch.stack([torch.floor(clipped * 2 ** (n + 1)) % 2 for n in range(levels)]).int()


def relative_cell(source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """[2] size of an output pixel, 2 / target, in units of half a source pixel."""
    cell = torch.tensor([2 / target[0], 2 / target[1]])
    return cell * _tensor(source)


def _corner(source: tuple[int, int], coord: Tensor, shift: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Index and centre of the source pixel nearest to the queries moved half a source pixel."""
    moved = torch.stack([coord[..., n] + (shift[n] / source[n] + SHIFT_EPSILON) for n in (0, 1)], dim=-1).clamp(
        -1 + SHIFT_EPSILON, 1 - SHIFT_EPSILON
    )
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in source), indexing="ij")
    maps = torch.cat([torch.stack([rows, columns]), make_coord(source).permute(2, 0, 1)])
    # grid_sample wants (x, y), the specification speaks of (row, column).
    found = F.grid_sample(maps[None], moved.flip(-1)[None], mode="nearest", align_corners=False)[0]
    return found[:2].permute(1, 2, 0).long(), found[2:].permute(1, 2, 0)


def _local(relative: Tensor, source: tuple[int, int]) -> Tensor:
    quirk = torch.stack([1 / n - relative[..., axis] for axis, n in enumerate(source)], dim=-1)
    return torch.where(relative > 0, relative, quirk)


def _tensor(size: tuple[int, int]) -> Tensor:
    return torch.tensor(size, dtype=torch.float32)
