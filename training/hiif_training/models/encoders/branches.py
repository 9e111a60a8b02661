"""Re-parameterised training: convolutions with more branches while they are trained than when they run.

A 3×3 convolution W is trained as W + D·B·A + P: a chain of 1×1 (A, which widens), 3×3 (B) and 1×1 (D) as in SPAN (Wan
et al. 2023, arXiv 2311.12770), and a 1×1 convolution P. All of it is linear, so the sum is one 3×3 convolution. It is
computed before the convolution, not after it: a step costs what it costs without branches, and borders are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hiif_deploy.errors import CheckpointError

MAX_WIDTH = 8
"""Largest width of the branches, in multiples of the convolution's input channels."""
_WEIGHT = ".parametrizations.weight."
"""Part of the names that PyTorch gives the tensors of a convolution with branches."""
_NAMES = ("widen", "spread", "reduce", "point")
"""Parameters of `Branches`."""


class Branches(nn.Module):
    """Kernel [O, I, 3, 3] → kernel of the same shape with the branches added; at first they are zero."""

    def __init__(self, outputs: int, inputs: int, width: int) -> None:
        super().__init__()
        middle = width * inputs
        self.widen = nn.Parameter(torch.empty(middle, inputs))
        self.spread = nn.Parameter(torch.empty(middle, middle, 3, 3))
        # Zero, so that trained weights stay what they are when branches are added to them.
        self.reduce = nn.Parameter(torch.zeros(outputs, middle))
        self.point = nn.Parameter(torch.zeros(outputs, inputs))
        nn.init.kaiming_uniform_(self.widen, a=5**0.5)
        nn.init.kaiming_uniform_(self.spread, a=5**0.5)

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the sum, float32 whatever the precision of the convolutions is."""
        with torch.autocast(kernel.device.type, enabled=False):
            return merged(kernel, self.widen, self.spread, self.reduce, self.point)


def merged(kernel: Tensor, widen: Tensor, spread: Tensor, reduce: Tensor, point: Tensor) -> Tensor:
    """Return W + D·B·A + P as one kernel [O, I, 3, 3]; the arguments have the shapes of `Branches`."""
    chain = torch.einsum("om,mnyx,ni->oiyx", reduce, spread, widen)
    return kernel + chain + nn.functional.pad(point[:, :, None, None], (1, 1, 1, 1))


def add_branches(encoder: nn.Module, width: int) -> None:
    """Give branches of `width` times the input's channels to each 3×3 convolution that is trained."""
    for module in list(encoder.modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.weight.requires_grad:
            branches = Branches(module.out_channels, module.in_channels, width)
            parametrize.register_parametrization(module, "weight", branches)


def merge_branches(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a state dict with each convolution's branches merged into its weight.

    CheckpointError where branches are missing or do not fit their convolution.
    """
    plain = {name: value for name, value in tensors.items() if _WEIGHT not in name}
    for name, kernel in tensors.items():
        convolution, found, part = name.partition(_WEIGHT)
        if found and part == "original":
            branches: list[Any] = [tensors.get(f"{convolution}{_WEIGHT}0.{own}") for own in _NAMES]
            _check(convolution, kernel, branches)
            plain[f"{convolution}.weight"] = merged(kernel.float(), *(branch.float() for branch in branches))
    return plain


def _check(name: str, kernel: Any, branches: list[Any]) -> None:
    """CheckpointError unless the tensors have the shapes of `Branches`, with all of these values in the file, so that
    what is computed from them is at most a few times as large."""
    shapes = [tuple(value.shape) if _is_whole(value) else () for value in (kernel, *branches)]
    outputs, inputs = (*shapes[0], 0, 0)[:2]
    middle = (*shapes[1], 0)[0]
    wanted = [(outputs, inputs, 3, 3), (middle, inputs), (middle, middle, 3, 3), (outputs, middle), (outputs, inputs)]
    if shapes != wanted or middle > MAX_WIDTH * inputs:
        raise CheckpointError(
            f"{name}: its kernel and branches have shapes {shapes}: expected {wanted} with a middle of at most "
            f"{MAX_WIDTH} times {inputs} channels"
        )


def _is_whole(value: Any) -> bool:
    """Whether a value is a tensor of numbers that are all stored: neither sparse nor one number seen many times."""
    is_dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    return is_dense and value.is_floating_point() and value.untyped_storage().nbytes() >= value.numel()
