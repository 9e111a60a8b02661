"""Continuous super-resolution in production: open a bundle, enlarge pictures by any factor."""

import importlib
import os
import typing

# ONNX Runtime tells its makers of its use from 1.32 on, and reads this once when it is imported. Nobody who enlarges
# a picture was asked; who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if typing.TYPE_CHECKING:
    from hiif_deploy.bundle import Bundle, open_bundle, shipped_models
    from hiif_deploy.errors import (
        BundleError,
        CheckpointError,
        ClusterError,
        EngineAbsentError,
        EngineError,
        EngineLoadError,
        FrameError,
        HiifError,
        ImageError,
        MissingExtraError,
        OptionError,
        ParityError,
        ScaleError,
        UsageError,
        VideoError,
        WorkInterruptedError,
    )
    from hiif_deploy.session import EngineOptions
    from hiif_deploy.sizes import output_size
    from hiif_deploy.upscaler import Features, RenderOptions, Upscaler

__all__ = [
    "Bundle",
    "BundleError",
    "CheckpointError",
    "ClusterError",
    "EngineAbsentError",
    "EngineError",
    "EngineLoadError",
    "EngineOptions",
    "Features",
    "FrameError",
    "HiifError",
    "ImageError",
    "MissingExtraError",
    "OptionError",
    "ParityError",
    "RenderOptions",
    "ScaleError",
    "Upscaler",
    "UsageError",
    "VideoError",
    "WorkInterruptedError",
    "open_bundle",
    "output_size",
    "shipped_models",
]
__version__ = "0.1.0"

_HOMES = {
    "hiif_deploy.bundle": (
        "Bundle",
        "open_bundle",
        "shipped_models",
    ),
    "hiif_deploy.errors": (
        "BundleError",
        "CheckpointError",
        "ClusterError",
        "EngineAbsentError",
        "EngineError",
        "EngineLoadError",
        "FrameError",
        "HiifError",
        "ImageError",
        "MissingExtraError",
        "OptionError",
        "ParityError",
        "ScaleError",
        "UsageError",
        "VideoError",
        "WorkInterruptedError",
    ),
    "hiif_deploy.session": ("EngineOptions",),
    "hiif_deploy.sizes": ("output_size",),
    "hiif_deploy.upscaler": (
        "Features",
        "RenderOptions",
        "Upscaler",
    ),
}
"""Module → the public names in it. They are imported when they are first used, so that `--help` needs no engine."""


def __getattr__(name: str) -> typing.Any:
    """A public name, or the module that holds some, imported on first use."""
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(module), name)
            globals()[name] = value
            return value
    if f"{__name__}.{name}" in _HOMES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, imported yet or not."""
    return sorted({*globals(), *__all__})
