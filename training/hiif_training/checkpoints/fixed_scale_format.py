"""Published files of fixed-scale networks: nothing but tensors, whose names and shapes identify the network.

{'sub_mean.bias': ..., 'head.0.weight': ..., 'tail.0.0.weight': ..., 'tail.1.weight': ...}      EDSR of EDSR-PyTorch
{'SFENet1.weight': ..., 'UPNet.0.weight': ..., 'UPNet.2.weight': ...}                           RDN of EDSR-PyTorch
{'params': {'conv_first.weight': ..., 'upsample.0.weight': ..., 'conv_last.weight': ...}}       SwinIR, classical
{'conv_1.eval_conv.weight': ..., 'conv_cat.weight': ..., 'upsampler.0.weight': ...}             SPAN, re-parameterised

The encoder's layers go below `encoder.`, the others below `upsampler.` (`FixedScaleModel`), whose last layer is EDSR's
`tail.1` and SwinIR's `conv_last`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hiif_deploy.errors import CheckpointError
from hiif_training.models.encoders.edsr import DIV2K_MEAN

LAST = "{last}"
"""Stands for the number of the last layer, which depends on the scale."""
RENAMED = {
    "tail.1.weight": ((r"tail\.0\.", "upsampler."), (r"tail\.1\.", f"upsampler.{LAST}.")),
    "UPNet.0.weight": ((r"UPNet\.", "upsampler."),),
    "conv_last.weight": ((r"upsample\.", "upsampler."), (r"conv_last\.", f"upsampler.{LAST}.")),
}
"""Tensor that a file of EDSR, RDN or SwinIR alone has → patterns of its up-sampler's names and those here."""
RANGES = (1.0, 255.0)
"""Values of white with which EDSR was trained."""


def family_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors under this project's names where a fixed-scale network was published, else as they are."""
    for sign, rules in RENAMED.items():
        if sign in tensors:
            named = {_renamed(key, rules): value for key, value in tensors.items()}
            # A pixel shuffle without weights stands between two convolutions.
            last = 2 + max((int(key.split(".")[1]) for key in named if re.match(r"upsampler\.\d+\.", key)), default=-2)
            return {key.replace(LAST, str(last)): value for key, value in named.items()}
    return _span_names(tensors) if "conv_cat.weight" in tensors else dict(tensors)


def _span_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Name SPAN's tensors, and give its up-sampler the value range of its input, (x − mean)·255 instead of x."""
    # ncnn's names repeat the up-sampler's.
    rules = ((r"(upsampler\.)+", "upsampler."),)
    named = {_renamed(key.replace(".eval_conv.", "."), rules): value for key, value in tensors.items()}
    weight, bias = (named.get(f"upsampler.0.{kind}") for kind in ("weight", "bias"))
    if isinstance(weight, Tensor) and isinstance(bias, Tensor) and bias.ndim == 1 and len(bias) % 3 == 0:
        mean = torch.tensor(DIV2K_MEAN).repeat_interleave(len(bias) // 3)
        named |= {"upsampler.0.weight": weight.float() * 255, "upsampler.0.bias": (bias.float() - mean) * 255}
    return named


def value_range(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rgb_range` and `shift_mean` of a published network, whose tensors have this project's names.

    EDSR stores its mean shift; RDN of EDSR-PyTorch has none, and SwinIR's has no tensor.
    """
    if "encoder.SFENet1.weight" in tensors:
        return {"rgb_range": 255.0, "shift_mean": False}
    if "encoder.conv_cat.weight" in tensors:
        return {"rgb_range": 255.0, "shift_mean": True}
    if "encoder.conv_first.weight" in tensors:
        return {"rgb_range": 1.0, "shift_mean": True}
    shift = tensors["encoder.sub_mean.bias"]
    for white in RANGES:
        wanted = torch.tensor(DIV2K_MEAN) * -white
        if isinstance(shift, Tensor) and shift.shape == wanted.shape and torch.allclose(shift.float(), wanted, 1e-3):
            return {"rgb_range": white, "shift_mean": True}
    raise CheckpointError("sub_mean is not the mean colour of DIV2K times 1 or 255: the values are in another range")


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for before, after in rules:
        if re.match(before, key):
            return re.sub(f"^{before}", after, key)
    return f"encoder.{key}"
