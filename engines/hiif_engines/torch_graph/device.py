"""The device that PyTorch computes on, and the precision of its products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from hiif_deploy.errors import EngineAbsentError, OptionError

HOST_BYTES = 4 << 30
"""Assumed memory of a CPU that stands in for a GPU."""


def open_device(name: str) -> torch.device:
    """Return the device `cuda`, `cuda:1`, … or `cpu`. EngineAbsentError where PyTorch sees no such GPU."""
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
    """Return the device's name for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def memory_of(device: torch.device) -> int:
    """Return the device's memory in bytes."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else HOST_BYTES


def wait_for(device: torch.device) -> None:
    """Wait until everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Within the block, record no gradients, make the device current, as Triton's launches need it, and compute
    float32 products without TF32 and sums of float16 products in float32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32
    matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32 = False, False, False
    try:
        with torch.inference_mode(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    finally:
        matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32 = before
