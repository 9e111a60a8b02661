"""Optional packages: which there are, and the command that adds them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from hiif_deploy.errors import MissingExtraError
from hiif_deploy.support.install import install_command

EXTRAS = {
    "export": ("torch", "safetensors", "onnx", "onnxscript", "polygraphy"),
    "train": ("torch", "safetensors", "lightning", "tensorboard", "yaml"),
    "engines": ("onnx", "polygraphy"),
    "openvino": ("openvino",),
    "native": ("llvmlite", "onnx"),
    "cuda-torch": ("torch", "onnx"),
    "bench": ("matplotlib",),
    "ray": ("ray",),
    "tensorrt": ("tensorrt", "cuda.bindings"),
    "video": ("av",),
}
"""Extra → the modules it brings. They come by `pip install 'hiif-deploy[EXTRA]'`."""

OPTIONAL_PACKAGES = (
    "torch", "safetensors", "lightning", "onnx", "onnxscript", "polygraphy", "openvino", "llvmlite", "tensorrt",
    "tensorrt-rtx-cu13-bindings", "triton", "av", "ray",
)  # fmt: skip
"""Distributions that `doctor` looks for."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error that names a missing package and the command that adds it."""
    return MissingExtraError(package, extra, install_command(extra))


def require_extra(extra: str) -> None:
    """MissingExtraError naming the first module of `extra` that is not installed."""
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise missing_extra(module, extra)


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution without importing it; None where there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
