"""Hand-typed half precision: which tensors of a module are float16, and why nothing in between overflows.

Features, weights and matrix products are half; tables, moments, statistics and LayerNorm's sums are float32. The types
are written into the graphs, because TensorRT 11 takes precision from nowhere else and no automatic converter got
coordinates and reductions right (design/precision.md).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import Precision

COMPUTE: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
"""Type of features, weights and matrix products."""


def wide(x: Tensor) -> Tensor:
    """float32 of a half tensor; any other is left alone (tests run the modules in float64)."""
    return x.float() if x.dtype == torch.float16 else x


def fit(weight: Tensor, compute: torch.dtype) -> float:
    """A power of two such that |weight / it · x| ≤ max |x| for every x; 1 for wider types.

    `weight` is [outputs, inputs]. With it a matrix product of finite half values is finite. A power of two changes no
    digit of the result; the caller multiplies it back in float32, or divides by a norm that holds it too.
    """
    if compute != torch.float16:
        return 1.0
    largest = float(weight.detach().abs().sum(dim=1).max())
    return 2.0 ** max(0, math.ceil(math.log2(largest))) if largest > 0 else 1.0


def typed(module: nn.Module, compute: torch.dtype) -> nn.Module:
    """The module in place, in eval mode: layers and buffers named `weight` in `compute`, all other values float32."""
    for part in module.modules():
        is_product = isinstance(part, (nn.Linear, nn.Conv2d))
        for name, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if value.is_floating_point():
                value.data = value.data.to(compute if is_product or name == "weight" else torch.float32)
    return module.eval()


def typed_encoder(encoder: nn.Module, compute: torch.dtype) -> nn.Module:
    """A copy of an encoder in `compute`, its LayerNorms in float32."""
    encoder = copy.deepcopy(encoder).to(compute)
    for part in list(encoder.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.LayerNorm) and compute == torch.float16:
                setattr(part, name, WideNorm(child.float()))
    return encoder.eval()


class WideNorm(nn.Module):
    """LayerNorm of half values in float32."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as `x`."""
        y: Tensor = self.norm(x.float())
        return y.to(x.dtype)
