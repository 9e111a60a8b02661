"""Continuous super-resolution in production: open a bundle, upscale pictures by any factor."""

import importlib
import os
import typing

# From 1.32 on ONNX Runtime sends usage data to its makers, and reads this variable once, at import. Users of this
# package never agreed to that; set the variable to 0 to allow it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from hiif_deploy.support.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from hiif_deploy.backends.options import EngineOptions
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
    from hiif_deploy.geometry.sizes import output_size
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

_HOMES = ("errors", "geometry.sizes", "bundle", "backends.options", "upscaler")
"""Modules that define the public names, the light ones first: `--help` shall need no engine."""


def __getattr__(name: str) -> typing.Any:
    """A public name, imported on first use, or the package `bundle`, `errors` or `upscaler`."""
    if name in __all__:
        homes = (importlib.import_module(f"{__name__}.{home}") for home in _HOMES)
        value = next(getattr(home, name) for home in homes if hasattr(home, name))
        globals()[name] = value
        return value
    if name in _HOMES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, imported yet or not."""
    return sorted({*globals(), *__all__})
