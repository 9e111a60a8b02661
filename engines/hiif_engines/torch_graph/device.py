"""The device that PyTorch computes on, and the precision of its products."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from hiif_deploy.errors import EngineAbsentError, OptionError

ALONE = threading.RLock()
"""Held while a CUDA graph is captured, and while a device is waited for: CUDA allows no wait during a capture, whoever
captures."""
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
    # With its number, because threads may have different current devices.
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else device


def describe(device: torch.device) -> str:
    """Return the device's name for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def memory_of(device: torch.device) -> int:
    """Return the device's memory in bytes."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else HOST_BYTES


def wait_for(device: torch.device) -> None:
    """Wait until everything queued on the device is done."""
    if device.type == "cuda":
        with ALONE:
            torch.cuda.synchronize(device)


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Within the block, record no gradients, make the device and its default stream current, because all of an engine's
    work is ordered there, and compute float32 products without TF32 and sums of float16 products in float32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32
    matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32 = False, False, False
    try:
        with torch.inference_mode(), _current(device):
            yield
    finally:
        matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction, cudnn.allow_tf32 = before


def _current(device: torch.device) -> AbstractContextManager[object]:
    # A stream's context makes its device current too.
    return torch.cuda.stream(torch.cuda.default_stream(device)) if device.type == "cuda" else nullcontext()
