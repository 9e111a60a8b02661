"""Upscales whole pictures with the PyTorch module: the reference for evaluation and training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hiif_deploy.geometry.sizes import Size, padded_size, published_size
from hiif_deploy.pixels import mirror, to_unit
from hiif_training.models.implicit import ImplicitModel, ModelTraits

TRAINED_SCALE = 4.0
"""Largest scale of published training: evaluation limits the cell to it (design/model.md E3)."""


def upscale(
    model: ImplicitModel,
    frame: NDArray[np.uint8],
    target: Size,
    *,
    group_rows: int | None = None,
    clip_cell: bool = False,
) -> NDArray[np.float32]:
    """Upscale an RGB picture [h, w, 3] uint8 to [H, W, 3] float32 in [0, 1], a group of rows per call.

    `group_rows` and `clip_cell` as in `hiif_deploy.RenderOptions`. Memory grows with the queries of a group.
    """
    source = (frame.shape[0], frame.shape[1])
    multiple = model.encoder.size_multiple
    whole = target
    if group_rows is not None and multiple > 1:
        padded, whole = published_size(source, target, multiple)
        frame, source = mirror(frame, padded), padded
    device = next(model.parameters()).device
    unit = torch.from_numpy(to_unit(mirror(frame, padded_size(source, multiple)))).to(device)
    mean, std = _normalisation(model.traits, device)
    image = ((unit - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        features = model.encode(image)[..., : source[0], : source[1]]
        image = image[..., : source[0], : source[1]]
        output = _decode(model, image, features, whole, group_rows or whole[0], clip_cell=clip_cell)
    colours = output.reshape(*whole, 3)[: target[0], : target[1]]
    return np.asarray((colours * std + mean).clamp(0, 1).cpu().numpy(), dtype=np.float32)


def _normalisation(traits: ModelTraits, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(traits.mean, device=device), torch.tensor(traits.std, device=device)


def _decode(
    model: ImplicitModel, image: torch.Tensor, features: torch.Tensor, target: Size, rows: int, *, clip_cell: bool
) -> torch.Tensor:
    """Return colours [H·W, 3] in the normalised domain, in groups of `rows` output rows."""
    source = (image.shape[2], image.shape[3])
    clip_cell = clip_cell and model.traits.clips_cell
    factor = max(target[0] / source[0] / TRAINED_SCALE, 1.0) if clip_cell else 1.0
    if model.traits.fixed_scale is not None:
        rows = target[0]  # It computes the whole output at once, and has no statistics.
    parts = []
    for start in range(0, target[0], rows):
        pixels = np.arange(start * target[1], min(start + rows, target[0]) * target[1])
        queries = model.make_queries(source, target, pixels).to(image.device)
        if factor != 1:
            queries.cell.mul_(factor)
        parts.append(model.decode_with_skip(image, features, queries)[0])
    return torch.cat(parts)
