"""Base class of every decoder: a model that predicts the colour at any coordinate from an encoder's features.

A decoder derives from `ImplicitModel` and adds `make_queries` and `decode` (design/decoders.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.queries.axis import QueryMaker, WithSkip


@dataclass(frozen=True)
class ModelTraits:
    """Conventions of the published model around its decoder; an export stores them in the bundle."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of red, green and blue: the network's domain is (x − mean) / std for x in [0, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of red, green and blue; positive."""
    skip: Literal["bilinear", "none"] = "bilinear"
    """Picture that is added to the decoder's output: the bilinearly sampled input, or none."""
    clips_cell: bool = True
    """Whether the published evaluation limits the cell to the smallest one in training."""
    fixed_scale: int | None = None
    """The only factor that the model upscales by; None where it takes any."""

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise CheckpointError(f"standard deviations are {self.std}: expected positive ones")


class ImplicitModel(nn.Module, ABC):
    """An encoder and an implicit decoder. Colours are in the normalised domain of the input.

    Features and queries are arguments, colours are return values: the module stores nothing between calls.
    """

    traits: ModelTraits = ModelTraits()
    """Conventions of the published model."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    @abstractmethod
    def make_queries(self) -> QueryMaker:
        """Makes the queries that `decode` takes. It can be pickled and holds no weights."""

    @abstractmethod
    def decode(self, features: Tensor, queries: Any) -> Tensor:
        """Encoder features [B, C, h, w] → colours [B, N, 3] without the skip."""

    @property
    def output_layer(self) -> nn.Linear | None:
        """The layer that gives the colours, where a run may start from an output of zero; None for most decoders."""
        return None

    def encode(self, image: Tensor) -> Tensor:
        """Normalised picture [B, 3, h, w] → features [B, C, h, w]."""
        features: Tensor = self.encoder(image)
        return features

    def forward(self, image: Tensor, queries: Any) -> Tensor:
        """Normalised picture [B, 3, h, w] → colours [B, N, 3], the skip included."""
        return self.decode_with_skip(image, self.encode(image), queries)

    def decode_with_skip(self, image: Tensor, features: Tensor, queries: Any) -> Tensor:
        """Picture [B, 3, h, w] and its features [B, C, h, w] → colours [B, N, 3], the skip included."""
        colours = self.decode(features, queries)
        return colours + skip(image, queries) if self.traits.skip == "bilinear" else colours


def gather(maps: Tensor, index: Tensor) -> Tensor:
    """Return the values [B, K, N, C] of maps [B, C, h, w] at row-major pixel indices [B, K, N]."""
    batch, channels = maps.shape[:2]
    rows = maps.flatten(2).transpose(1, 2).reshape(-1, channels)
    pixels = maps.shape[2] * maps.shape[3]
    start = torch.arange(batch, device=index.device).view(batch, 1, 1) * pixels
    return rows.index_select(0, (index + start).flatten()).view(*index.shape, channels)


def skip(image: Tensor, queries: WithSkip) -> Tensor:
    """Sample the picture [B, 3, h, w] bilinearly with half-pixel centres → [B, N, 3], border replicated (H10)."""
    return (gather(image, queries.skip_index) * queries.skip_weight[..., None].to(image.dtype)).sum(1)
