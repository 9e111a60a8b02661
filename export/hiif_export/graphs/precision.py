"""Hand-typed half precision: which tensors of a module are float16, and why nothing in between overflows.

Features, weights and matrix products are half; tables, moments, statistics and LayerNorm's sums are float32. The dtypes
are written into the graphs, because TensorRT 11 is strongly typed and no automatic converter typed coordinates and
reductions correctly (design/precision.md).
"""

import copy
import math

import torch
from torch import Tensor, nn

from hiif_deploy.bundle.contract import Precision

COMPUTE: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
"""Precision → dtype of features, weights and matrix products."""


def wide(x: Tensor) -> Tensor:
    """Return a half tensor [...] as float32; any other dtype is unchanged, as tests run the modules in float64."""
    return x.float() if x.dtype == torch.float16 else x


def fit(weight: Tensor, compute: torch.dtype) -> float:
    """Return a power of two such that |weight / it · x| ≤ max |x| for every x; 1 for wider dtypes.

    `weight` is [outputs, inputs]. With it a matrix product of finite half values is finite. A power of two changes no
    digit of the result; the caller multiplies it back in float32, or divides by a norm that contains it too.
    """
    if compute != torch.float16:
        return 1.0
    largest = float(weight.detach().abs().sum(dim=1).max())
    return 2.0 ** max(0, math.ceil(math.log2(largest))) if largest > 0 else 1.0


def typed(module: nn.Module, compute: torch.dtype) -> nn.Module:
    """Convert a module in place and set eval mode: layers and buffers named `weight` to `compute`, all else to
    float32."""
    for part in module.modules():
        # Norms and position tables stay float32: float16 loses the low digits of coordinates and squares overflow.
        is_product = isinstance(part, (nn.Linear, nn.Conv2d))
        for name, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if value.is_floating_point():
                value.data = value.data.to(compute if is_product or name == "weight" else torch.float32)
    return module.eval()


def typed_encoder(encoder: nn.Module, compute: torch.dtype) -> nn.Module:
    """Return a copy of an encoder in `compute`, with its LayerNorms in float32."""
    encoder = copy.deepcopy(encoder).to(compute)
    for part in list(encoder.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.LayerNorm) and compute == torch.float16:
                setattr(part, name, WideNorm(child.float()))
    return encoder.eval()


class WideNorm(nn.Module):
    """LayerNorm that computes half values in float32."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., C]; the result has its shape and dtype."""
        y: Tensor = self.norm(x.float())
        return y.to(x.dtype)
