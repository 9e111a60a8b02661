"""Measures the deviation of an approximate run from the exact one on the picture itself."""

from dataclasses import replace

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pixels import Frame
from hiif_deploy.rendering.verify import Difference, measure
from hiif_deploy.upscaler import RenderOptions, Upscaler


def exact_reference(upscaler: Upscaler) -> Upscaler:
    """Open the bundle in fp32 on the CPU with statistics of all queries. OptionError where `upscaler` is exact
    already."""
    if upscaler.precision == "fp32" and upscaler.options.statistics == "exact":
        raise OptionError("nothing is approximate in this run, so there is no deviation to report")
    return fp32_reference(upscaler, replace(upscaler.options, statistics="exact"))


def fp32_reference(upscaler: Upscaler, options: RenderOptions) -> Upscaler:
    """Open the bundle in fp32 on the CPU."""
    engine = EngineOptions(threads=upscaler.engine.threads, precision="fp32")
    return Upscaler(upscaler.bundle, engine=engine, options=options)


def deviation(upscaler: Upscaler, exact: Upscaler, frame: Frame, size: Size) -> Difference:
    """Compare the colours of both for a frame [h, w, 3] or [h, w], before rounding and clamping.

    It takes one more approximate run and the exact one.
    """
    found, expected = (one.render_unclamped(one.encode(frame), size=size) for one in (upscaler, exact))
    return measure(found, expected)
