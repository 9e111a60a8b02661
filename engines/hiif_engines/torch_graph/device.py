"""The device that PyTorch computes on, and the arithmetic that its libraries are held to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hiif_deploy.errors import EngineAbsentError, OptionError

HOST_BYTES = 4 << 30
"""Taken as the processor's memory where that stands in for a GPU."""


def open_device(name: str) -> torch.device:
    """`cuda`, `cuda:1`, … or `cpu`. EngineAbsentError where PyTorch sees no such GPU."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device {name!r}: expected cuda, cuda:N or cpu") from error
    if device.type not in ("cuda", "cpu"):
        raise OptionError(f"device {name!r}: expected cuda, cuda:N or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EngineAbsentError(
            f"device {name}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA GPUs; install a build "
            "for CUDA, or choose another device"
        )
    return device


def describe(device: torch.device) -> str:
    """For people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def memory_of(device: torch.device) -> int:
    """Bytes that the device has."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else HOST_BYTES


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 without TF32, sums of float16 products in float32; what was set before is set again."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32
    matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32 = False, False, False
    try:
        yield
    finally:
        matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32 = before
