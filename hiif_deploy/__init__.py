"""Continuous super-resolution in production: open a bundle, upscale pictures by any factor."""

import importlib
import os
import typing

# From 1.32 on ONNX Runtime sends usage data to its makers, and reads this variable once, at import. Users of this
# package never agreed to that; set the variable to 0 to allow it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from hiif_deploy.errors import BundleError as BundleError
from hiif_deploy.errors import CheckpointError as CheckpointError
from hiif_deploy.errors import ClusterError as ClusterError
from hiif_deploy.errors import DownloadError as DownloadError
from hiif_deploy.errors import EngineAbsentError as EngineAbsentError
from hiif_deploy.errors import EngineError as EngineError
from hiif_deploy.errors import EngineLoadError as EngineLoadError
from hiif_deploy.errors import FrameError as FrameError
from hiif_deploy.errors import HiifError as HiifError
from hiif_deploy.errors import ImageError as ImageError
from hiif_deploy.errors import MissingExtraError as MissingExtraError
from hiif_deploy.errors import OptionError as OptionError
from hiif_deploy.errors import ParityError as ParityError
from hiif_deploy.errors import ScaleError as ScaleError
from hiif_deploy.errors import UsageError as UsageError
from hiif_deploy.errors import VideoError as VideoError
from hiif_deploy.errors import WorkInterruptedError as WorkInterruptedError
from hiif_deploy.support.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from hiif_deploy.backends.options import EngineOptions as EngineOptions
    from hiif_deploy.bundle import Bundle as Bundle
    from hiif_deploy.bundle import open_bundle as open_bundle
    from hiif_deploy.bundle import shipped_models as shipped_models
    from hiif_deploy.geometry.sizes import output_size as output_size
    from hiif_deploy.upscaler import Features as Features
    from hiif_deploy.upscaler import RenderOptions as RenderOptions
    from hiif_deploy.upscaler import Upscaler as Upscaler

_HOMES = {
    "Bundle": "bundle", "open_bundle": "bundle", "shipped_models": "bundle", "EngineOptions": "backends.options",
    "output_size": "geometry.sizes", "Features": "upscaler", "RenderOptions": "upscaler", "Upscaler": "upscaler",
}  # fmt: skip
"""Public name → module that defines it, imported on first use: `--help` shall need no engine."""
__all__ = sorted({*_HOMES, *(name for name in globals() if name.endswith("Error"))})


def __getattr__(name: str) -> typing.Any:
    """A public name, imported on first use, or the package `bundle` or `upscaler`."""
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _HOMES.values():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, imported yet or not."""
    return sorted({*globals(), *__all__})
