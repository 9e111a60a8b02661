"""A bundle by name, on the engine of choice: the class that most users need."""

from functools import partial
from pathlib import Path

from hiif_deploy.backends.base import Backend
from hiif_deploy.backends.engines import AUTO, Engine
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import DEFAULT_MODEL, Bundle, open_bundle
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import OptionError
from hiif_deploy.rendering import tuned
from hiif_deploy.rendering.open_engine import open_chosen
from hiif_deploy.rendering.renderer import Features as Features
from hiif_deploy.rendering.renderer import Renderer
from hiif_deploy.rendering.renderer import RenderOptions as RenderOptions


class Upscaler(Renderer):
    """A bundle, loaded. Use it as a context manager, or call `close`; methods may be called from several threads.

    >>> with Upscaler() as upscaler:
    ...     large = upscaler.upscale(frame, scale=3.3)
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = DEFAULT_MODEL,
        *,
        engine: EngineOptions | Engine | None = None,
        precision: ComputePrecision | None = None,
        options: RenderOptions | None = None,
        backend: Backend | None = None,
    ) -> None:
        """`bundle` is a folder, a model's name or an opened bundle; `engine` a name (`onnxruntime`, `tensorrt`,
        `auto`) or all that can be chosen. `precision` alone takes an engine that has it, as the command line does.
        `backend` is one that is open already. Raises BundleError, EngineError, OptionError."""
        chosen = _engine_options(engine, precision)
        if not isinstance(options, RenderOptions | None):
            raise OptionError(f"options is {options!r}: expected RenderOptions")
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        if backend is None:
            backend, chosen = open_chosen(opened, chosen, partial(tuned.applied, opened))
        self.engine = chosen
        """With the name of the engine that `auto` took."""
        call = tuned.find(opened, chosen)
        super().__init__(opened, backend, options, tuned_block=call.query_block if call else None)

    def __repr__(self) -> str:
        described, state = self._described(self._backend), ", closed" if self._closed else ""
        return f"<Upscaler {self.contract.name!r}: {described}, {self.engine.thread_count} threads{state}>"


def _engine_options(engine: EngineOptions | Engine | None, precision: ComputePrecision | None) -> EngineOptions:
    if isinstance(engine, EngineOptions):
        if precision not in (None, engine.precision):
            raise OptionError(f"precision {precision!r} beside EngineOptions of {engine.precision!r}: name it there")
        return engine
    return EngineOptions(engine=AUTO if engine is None else engine, precision=precision)
