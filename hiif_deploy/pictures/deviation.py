"""How far an approximate run is from the exact one, measured on the picture itself."""

from __future__ import annotations

from dataclasses import replace

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pixels import Frame
from hiif_deploy.rendering.verify import Difference, measure
from hiif_deploy.upscaler import RenderOptions, Upscaler


def exact_twin(upscaler: Upscaler) -> Upscaler:
    """The same bundle in fp32 on the processor, statistics of all queries. OptionError where that is what it is."""
    if upscaler.precision == "fp32" and upscaler.options.statistics == "exact":
        raise OptionError("nothing is approximate in this run, so there is no deviation to report")
    return fp32_twin(upscaler, replace(upscaler.options, statistics="exact"))


def fp32_twin(upscaler: Upscaler, options: RenderOptions) -> Upscaler:
    """The same bundle in fp32 on the processor."""
    engine = EngineOptions(threads=upscaler.engine.threads, precision="fp32")
    return Upscaler(upscaler.bundle, engine=engine, options=options)


def deviation(upscaler: Upscaler, exact: Upscaler, frame: Frame, size: Size) -> Difference:
    """Colours of both before rounding and clamping; takes one more approximate run and the exact one."""
    answer, expected = (one.render_unclamped(one.encode(frame), size=size) for one in (upscaler, exact))
    return measure(answer, expected)
