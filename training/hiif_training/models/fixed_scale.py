"""Fixed-scale networks: EDSR, RDN, SPAN and SwinIR as published, each trained for one factor, with up-samplers of
sub-pixel convolutions (Shi et al. 2016, arXiv 1609.05158).

Through the interface of implicit models, a query is a pixel of the output at that factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiif_deploy.errors import CheckpointError, ScaleError
from hiif_training.models.arguments import Arguments, configure
from hiif_training.models.encoders.convolution import convolution
from hiif_training.models.encoders.edsr import DIV2K_MEAN
from hiif_training.models.encoders.encoder import Encoder
from hiif_training.models.encoders.rdn import Rdn
from hiif_training.models.implicit import ImplicitModel, ModelTraits, gather
from hiif_training.queries.axis import QueryMaker, TensorFields

NAME = "pixelshuffle"
"""Name of these models in a spec: SwinIR's own for its up-sampler."""
FACTORS = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
"""Scale → factors of the pixel shuffles, one after the other."""


@dataclass(frozen=True)
class FixedScaleConfig:
    """Scale and value range of a fixed-scale network; the defaults are EDSR's."""

    scale: int = 2
    """The factor that the network upscales by."""
    rgb_range: float = 255.0
    """Value of white inside the network."""
    shift_mean: bool = True
    """Whether the mean colour of DIV2K is subtracted from the input and added to the output."""
    direct: bool = False
    """Whether one convolution gives all colours of a pixel's square at once, as in SPAN."""

    def __post_init__(self) -> None:
        if self.scale not in FACTORS:
            raise CheckpointError(f"{NAME} scale is {self.scale}: expected one of {', '.join(map(str, FACTORS))}")
        if self.rgb_range <= 0:
            raise CheckpointError(f"{NAME} rgb_range is {self.rgb_range}: expected more than 0")


def make_fixed_scale(encoder: Encoder, args: Arguments) -> FixedScaleModel:
    """Build the network from the fields of `FixedScaleConfig`."""
    names = {field.name: field.name for field in fields(FixedScaleConfig)}
    return FixedScaleModel(encoder, configure(NAME, FixedScaleConfig(), args, names, {}))


def spec_scale(spec: Any) -> Any:
    """Return the scale that a spec fixes, not validated; None for a model of any scale."""
    if not isinstance(spec, Mapping) or spec.get("name") != NAME:
        return None
    return dict(spec.get("args") or {}).get("scale", FixedScaleConfig.scale)


@dataclass(frozen=True)
class PixelQueries(TensorFields):
    """Pixels of B outputs, N each."""

    index: Tensor
    """[B, N] int64: row-major pixel of the output."""


def pixel_queries(
    source: tuple[int, int], target: tuple[int, int], pixels: NDArray[np.int64] | None = None, *, scale: int
) -> PixelQueries:
    """`QueryMaker` of one scale; ScaleError for a target of another one."""
    if target != (source[0] * scale, source[1] * scale):
        (height, width), (rows, columns) = source, target
        raise ScaleError(f"{width}x{height} → {columns}x{rows}: this network upscales ×{scale} only")
    pixels = np.arange(target[0] * target[1]) if pixels is None else pixels
    return PixelQueries(torch.from_numpy(pixels)[None])


class FixedScaleModel(ImplicitModel):
    """An encoder and an up-sampler for one scale."""

    def __init__(self, encoder: Encoder, config: FixedScaleConfig) -> None:
        super().__init__(encoder)
        self.config = config
        mean = DIV2K_MEAN if config.shift_mean else (0.0, 0.0, 0.0)
        std = 1 / config.rgb_range
        self.traits = ModelTraits(mean, (std, std, std), skip="none", clips_cell=False, fixed_scale=config.scale)
        self.upsampler = _direct(encoder, config.scale) if config.direct else _upsampler(encoder, config.scale)

    @property
    def make_queries(self) -> QueryMaker:
        """Makes queries of output pixels."""
        return partial(pixel_queries, scale=self.config.scale)

    def decode(self, features: Tensor, queries: PixelQueries) -> Tensor:
        """Encoder features [B, C, h, w] → colours [B, N, 3]; the whole output is computed."""
        return gather(self.upsampler(features), queries.index[:, None])[:, 0]


def _direct(encoder: Encoder, scale: int) -> nn.Sequential:
    """Features [B, C, h, w] → colours [B, 3, scale·h, scale·w]."""
    return nn.Sequential(convolution(encoder.out_channels, 3 * scale**2), nn.PixelShuffle(scale))


def _upsampler(encoder: Encoder, scale: int) -> nn.Sequential:
    """Features [B, C, h, w] → colours [B, 3, scale·h, scale·w]."""
    inputs, width, kernel = encoder.out_channels, encoder.out_channels, 3
    if isinstance(encoder, Rdn):
        width, kernel = encoder.config.growth, encoder.config.kernel
    layers: list[nn.Module] = []
    for factor in FACTORS[scale]:
        layers += [convolution(inputs, factor**2 * width, kernel), nn.PixelShuffle(factor)]
        inputs = width
    return nn.Sequential(*layers, convolution(width, 3, kernel))
