"""Continuous super-resolution in production: open a bundle, enlarge pictures by any factor."""

import os

# ONNX Runtime tells its makers of its use from 1.32 on, and reads this once when it is imported. Nobody who enlarges
# a picture was asked; who wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

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
