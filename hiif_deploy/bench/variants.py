"""Ways to enlarge a picture that the benchmark knows by name."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast, get_args

from hiif_deploy.backends.engines import Engine
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import ON_HOST, EngineOptions, IsaName
from hiif_deploy.bench.case import BenchModel, Image, Opener, Runner, Work
from hiif_deploy.bench.stages import Stopwatch, table_seconds
from hiif_deploy.bench.work import count_upscale
from hiif_deploy.decoding.encode import encoder_calls
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import HiifError, OptionError
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.rendering import tuned
from hiif_deploy.rendering.open_engine import open_backend
from hiif_deploy.rendering.renderer import Array, Renderer, RenderOptions
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.install import install_command
from hiif_deploy.support.resolve import registered

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """An upscaler as a user would set it up."""

    engine: EngineOptions = ON_HOST
    """Engine and arithmetic."""
    render: RenderOptions = field(default_factory=RenderOptions)
    """How the work is cut."""


SAMPLED = RenderOptions(statistics="sampled")

SETTINGS: dict[str, Setting] = {
    "exact": Setting(),
    "sampled": Setting(render=SAMPLED),
    "openvino": Setting(EngineOptions(engine="openvino")),
    "bf16": Setting(EngineOptions(engine="openvino", precision="bf16"), SAMPLED),
    "int8": Setting(EngineOptions(engine="openvino", precision="int8"), SAMPLED),
}
"""This project's own ways. Add a line to have another one measured."""
NATIVE = ("exact", "sampled", "bf16", "int8")
"""Those of them that run as native code where that can be had, as their rows say."""

BASELINES = ("plain", "plain-chunked", "naive-onnx")
"""What ratios refer to: they need PyTorch and come from the area that has it."""
VARIANTS = (*BASELINES, *SETTINGS)
"""Names of all that are timed where none are named."""
REFERENCE = "float64"
"""The plain module in double precision, which deviations refer to; never timed."""
ENTRY_POINTS = "hiif_deploy.bench_baselines"
"""Name of a baseline → its `Opener`."""


def check_variants(names: Sequence[str]) -> None:
    """OptionError where a name is unknown: no variant, no BASELINE:QUERIES, no ENGINE nor ENGINE:PRECISION."""
    engines, baselines = get_args(Engine), (*BASELINES, REFERENCE)
    for name in names:
        first, _, rest = name.partition(":")
        if not (name in SETTINGS or (first in baselines and (rest.isdecimal() or not rest)) or first in engines):
            known = ", ".join((*VARIANTS, *(n for n in engines if n not in SETTINGS)))
            raise OptionError(f"unknown variant {name!r}: expected one of {known}, ENGINE:PRECISION, BASELINE:QUERIES")


def runs_native(name: str) -> bool:
    """Whether a variant runs as native code where that can be had."""
    return name in NATIVE or name.partition(":")[0] == "native"


def open_variant(
    name: str, model: BenchModel, threads: int, engine: EngineOptions | None = None, isa: IsaName | None = None
) -> Runner:
    """The variant, loaded. `engine` gives what ENGINE:PRECISION leaves open, `isa` the instruction set of native code.
    HiifError where it cannot be had."""
    check_variants([name])
    first, _, rest = name.partition(":")
    if first in (*BASELINES, REFERENCE):
        return _baseline(first)(model, threads, int(rest) if rest else None)
    if name in SETTINGS:
        return _ours(name, model, threads, isa)
    given = engine or EngineOptions()
    options = replace(
        given, engine=cast(Engine, first), precision=cast(ComputePrecision, rest) if rest else None, threads=threads,
        isa=isa if first == "native" else None,
    )  # fmt: skip
    return UpscalerRunner(name, model, Setting(options))


def _ours(name: str, model: BenchModel, threads: int, isa: IsaName | None) -> Runner:
    setting = SETTINGS[name]
    options = replace(setting.engine, threads=threads)
    if name in NATIVE:
        try:
            return UpscalerRunner(name, model, replace(setting, engine=replace(options, engine="native", isa=isa)))
        except HiifError as error:
            if isa is not None:
                raise
            logger.warning("%s: %s runs on %s and not as native code (%s)", model.name, name, options.engine, error)
    return UpscalerRunner(name, model, replace(setting, engine=options))


def _baseline(name: str) -> Opener:
    require_extra("export")
    opener: Opener | None = registered(ENTRY_POINTS, name)
    if opener is None:
        raise OptionError(f"variant {name} is not registered; install this project again: {install_command('export')}")
    return opener


class UpscalerRunner:
    """An upscaler with a stopwatch."""

    def __init__(self, name: str, model: BenchModel, setting: Setting) -> None:
        self.resolved = name
        # As the upscaler does it by itself, where its backend is not open already.
        call = tuned.find(model.bundle, setting.engine)
        if call is not None:
            setting = replace(setting, engine=replace(setting.engine, call_threads=call.call_threads))
        self._setting, self._bundle, self._watch = setting, model.bundle, Stopwatch()
        backend = open_backend(model.bundle, setting.engine)
        if isinstance(backend, HostBackend):
            backend.wrap_sessions(self._watch.wrap)
        block = call.query_block if call else None
        self._renderer = Renderer(model.bundle, backend, setting.render, tuned_block=block)
        self.arithmetic: ComputePrecision = self._renderer.precision
        self.isa: IsaName | None = backend.isa if isinstance(backend, HostBackend) else None
        tuning = f", tuned: {block} queries x {call.call_threads} threads per call" if call else ""
        self.detail = f"{self._renderer.description}{tuning}"
        self.seconds = 0.0
        """Of the last `upscale`."""
        self._table: dict[tuple[Size, Size], float] = {}
        self._last: tuple[Size, Size] | None = None

    @property
    def fallback_blocks(self) -> int:
        """Blocks that overflowed in half precision."""
        return self._renderer.fallback_blocks

    def upscale(self, image: Image, size: Size) -> Image:
        """See `Runner`."""
        source = (image.shape[0], image.shape[1])
        encoding = encoder_calls(source, self._renderer.plan(source))
        passes = self._renderer.contract.decoder.statistics_passes
        tiles = (self._renderer.steps(source, size) - encoding) // (passes + 1)
        began = time.perf_counter()
        self._watch.start({"encode": encoding, "statistics": passes * tiles, "decode": tiles})
        frame: Image = self._renderer.upscale(image, size=size, advance=self._watch.advance)
        self.seconds = time.perf_counter() - began
        self._last = (source, size)
        return frame

    def colours(self, image: Image, size: Size) -> Array:
        """See `Runner`."""
        return self._renderer.render_unclamped(self._renderer.encode(image), size=size)

    def stages(self) -> Mapping[str, float]:
        """See `Runner`; the names are `stages.STAGES`."""
        if self._last is None:
            return {}
        if self._last not in self._table:
            self._table[self._last] = table_seconds(self._bundle.contract, *self._last)
        passes = self._bundle.contract.decoder.statistics_passes
        engine = self._setting.engine
        calls = max(1, engine.thread_count // (engine.call_threads or 1))
        return self._watch.split(self.seconds, self._table[self._last], passes, calls)

    def work(self, image: Image, size: Size) -> Work | None:
        """See `Runner`; other engines than the host's are not counted."""
        engine = self._renderer.backend.engine
        if self.arithmetic == "fp16" or not isinstance(self._renderer.backend, HostBackend):
            return None
        counted = partial(count_upscale, self._bundle, self._setting.render, self._setting.engine.thread_count)
        if engine.session is not None:  # which runs the bundle's own graphs
            return counted(image, size)
        native = open_backend(self._bundle, self._setting.engine)
        try:
            return counted(image, size, native if isinstance(native, HostBackend) else None)
        finally:
            native.close()

    def close(self) -> None:
        """See `Runner`."""
        self._renderer.close()
