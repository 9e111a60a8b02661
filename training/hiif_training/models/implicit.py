"""What every decoder is: a model that answers the colour at any coordinate from an encoder's features.

A decoder derives from `ImplicitModel` and adds `ask` and `decode` (design/decoders.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoder import Encoder
from hiif_training.queries.axis import Ask, WithSkip


@dataclass(frozen=True)
class Traits:
    """What the published model does around its decoder; an export records it in the bundle."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Network domain = (x − mean) / std for x in [0, 1]: red, green, blue."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Likewise; positive."""
    skip: Literal["bilinear", "none"] = "bilinear"
    """What is added to the decoder's answer: the bilinearly sampled picture, or nothing."""
    clips_cell: bool = True
    """Whether the published evaluation tells the decoder of no smaller cell than it was trained on."""

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise CheckpointError(f"standard deviations are {self.std}: expected positive ones")


class ImplicitModel(nn.Module, ABC):
    """Encoder and implicit decoder. Colours are in the normalised domain of the input.

    Features and queries are arguments, colours are return values: the module remembers nothing between calls.
    """

    traits: ClassVar[Traits] = Traits()
    """Of the published model."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    @abstractmethod
    def ask(self) -> Ask:
        """Makes the queries that `decode` takes. Can be pickled, and holds no weights."""

    @abstractmethod
    def decode(self, features: Tensor, queries: Any) -> Tensor:
        """Encoder features [B, C, h, w] → colours [B, N, 3] without the skip."""

    def encode(self, image: Tensor) -> Tensor:
        """Normalised picture [B, 3, h, w] → features [B, C, h, w]."""
        features: Tensor = self.encoder(image)
        return features

    def forward(self, image: Tensor, queries: Any) -> Tensor:
        """Normalised picture [B, 3, h, w] → colours [B, N, 3], the skip included."""
        return self.answer(image, self.encode(image), queries)

    def answer(self, image: Tensor, features: Tensor, queries: Any) -> Tensor:
        """`forward` for features that are known already."""
        colours = self.decode(features, queries)
        return colours + skip(image, queries) if self.traits.skip == "bilinear" else colours


def gather(maps: Tensor, index: Tensor) -> Tensor:
    """[B, C, h, w] maps and [B, K, N] row-major pixel indices → [B, K, N, C]."""
    batch, channels = maps.shape[:2]
    rows = maps.flatten(2).transpose(1, 2).reshape(-1, channels)
    pixels = maps.shape[2] * maps.shape[3]
    start = torch.arange(batch, device=index.device).view(batch, 1, 1) * pixels
    return rows.index_select(0, (index + start).flatten()).view(*index.shape, channels)


def skip(image: Tensor, queries: WithSkip) -> Tensor:
    """[B, N, 3] half-pixel bilinear sample of the picture, border replicated (H10)."""
    return (gather(image, queries.skip_index) * queries.skip_weight[..., None].to(image.dtype)).sum(1)
