"""Optional packages: which are installed, and the command that installs them."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from hiif_deploy.errors import MissingExtraError
from hiif_deploy.support.install import install_command

EXTRAS = {
    "export": ("torch", "safetensors", "onnx", "onnxscript", "polygraphy"),
    "train": ("torch", "safetensors", "lightning", "tensorboard", "yaml", "matplotlib"),
    "engines": ("onnx", "polygraphy"),
    "openvino": ("openvino",),
    "native": ("llvmlite", "onnx"),
    "cuda-torch": ("torch", "onnx"),
    "bench": ("matplotlib",),
    "ray": ("ray",),
    "serve": ("starlette", "uvicorn", "python_multipart", "prometheus_client"),
    "serve-ray": ("ray", "fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client"),
    "tensorrt": ("tensorrt", "cuda.bindings"),
    "video": ("av",),
}
"""Extra → modules that it installs, by `pip install 'hiif-deploy[EXTRA]'`."""

OPTIONAL_PACKAGES = (
    "torch", "safetensors", "lightning", "onnx", "onnxscript", "polygraphy", "openvino", "llvmlite", "tensorrt",
    "tensorrt-rtx-cu13-bindings", "triton", "av", "ray", "starlette", "uvicorn",
)  # fmt: skip
"""Distributions whose versions `doctor` reports."""


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Return the error that names a missing package and the command that installs it."""
    return MissingExtraError(package, extra, install_command(extra))


def require_extra(extra: str) -> None:
    """Raise MissingExtraError naming the first module of `extra` that is not installed."""
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise missing_extra(module, extra)


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution without importing it; None where it is missing."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
