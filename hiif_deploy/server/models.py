"""The models of a server: open from the start in its own precision, and in others once a client chooses them."""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from hiif_deploy.backends.engines import ENGINES
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.session import REDUCED_PRECISIONS, ComputePrecision
from hiif_deploy.errors import HiifError, OptionError
from hiif_deploy.rendering import open_engine
from hiif_deploy.server.feature_cells import has_local_features
from hiif_deploy.server.options import Limits
from hiif_deploy.server.web import RequestError
from hiif_deploy.upscaler import RenderOptions, Upscaler

logger = logging.getLogger(__name__)
BICUBIC = "bicubic"
"""Name that clients use for interpolation in the place of a model."""


@contextlib.contextmanager
def opened_upscalers(
    bundles: Mapping[str, Bundle], engine: EngineOptions, render: RenderOptions
) -> Iterator[dict[str, Upscaler]]:
    """Open models by name; they are closed at the end. One line says which engine `auto` took for all of them."""
    with contextlib.ExitStack() as stack:
        with _joined_lines(open_engine.logger) as lines:
            opened = {}
            for lines.model, bundle in bundles.items():
                opened[lines.model] = stack.enter_context(Upscaler(bundle, engine=engine, options=render))
        yield opened


class _JoinedLines(logging.Filter):
    """Holds lines back, each with the names of the models for which it came."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ""
        self.held: dict[tuple[int, str], list[str]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        self.held.setdefault((record.levelno, record.getMessage()), []).append(self.model)
        return False


@contextlib.contextmanager
def _joined_lines(source: logging.Logger) -> Iterator[_JoinedLines]:
    """Log each line of `source` once at the end, behind the names of its models."""
    lines = _JoinedLines()
    source.addFilter(lines)
    try:
        yield lines
    finally:
        source.removeFilter(lines)
        for (level, text), names in lines.held.items():
            source.log(level, "%s: %s", ", ".join(names), text)


@dataclass(frozen=True)
class Model:
    """A model that is open in one precision."""

    name: str
    upscaler: Upscaler
    key: str
    """Identifies its graphs and how they run."""
    has_local_features: bool
    """Whether a part of a picture needs features of that part alone."""


class Models:
    """Thread-safe. What it opens itself is closed by `close`."""

    def __init__(self, upscalers: Mapping[str, Upscaler], limits: Limits) -> None:
        """`upscalers` by name, the first one is the default; whoever opened them closes them."""
        self._own = {name: _model(name, upscaler) for name, upscaler in upscalers.items()}
        self._precisions = {name: _precisions(upscaler) for name, upscaler in upscalers.items()}
        self._limit = limits.weights_bytes
        self._others: dict[tuple[str, ComputePrecision], Model] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models; the first one is the default."""
        return tuple(self._own)

    def own(self, name: str) -> Model:
        """Return a model in the server's precision. RequestError 404 where there is none of that name."""
        if name not in self._own:
            raise RequestError(404, f"there is no model of that name; models: {', '.join(self._own)}")
        return self._own[name]

    def precisions(self, name: str) -> tuple[ComputePrecision, ...]:
        """Return the precisions that clients can choose for a model, the server's own first."""
        return self._precisions[name]

    def kept(self, name: str, precision: ComputePrecision | None) -> Model | None:
        """Return a model if it is open; does not block. RequestError 404 or 400 where it cannot be had."""
        own = self.own(name)
        if precision in (None, own.upscaler.precision):
            return own
        if precision not in self._precisions[name]:
            raise RequestError(400, f"precision {precision}: {name} has {', '.join(self._precisions[name])} here")
        return self._others.get((name, precision))

    def open(self, name: str, precision: ComputePrecision | None) -> Model:
        """Return a model, opened once, which blocks for seconds. Errors as `kept`; RequestError 413 beyond the limit
        of memory."""
        with self._lock:
            model = self.kept(name, precision)
            if model is None:
                assert precision is not None
                model = self._others[name, precision] = self._opened(self._own[name].upscaler, name, precision)
            return model

    def close(self) -> None:
        """Close what was opened here."""
        for model in self._others.values():
            model.upscaler.close()

    def _opened(self, own: Upscaler, name: str, precision: ComputePrecision) -> Model:
        needed = _weights(own) + sum(_weights(model.upscaler) for model in self._others.values())
        if needed > self._limit:
            raise RequestError(413, f"other precisions would take more than {self._limit >> 20} MiB of weights")
        # TensorRT builds engines for minutes, in which nobody else would be served.
        engine = replace(own.engine, precision=precision, builds=False)
        try:
            return _model(name, Upscaler(own.bundle, engine=engine, options=own.options))
        except HiifError as error:  # It may name the folder of engines.
            logger.warning("%s in %s: %s", name, precision, error)
            self._precisions[name] = tuple(known for known in self._precisions[name] if known != precision)
            left = ", ".join(self._precisions[name])
            raise RequestError(400, f"precision {precision} cannot be opened; {name} has {left} here") from error


def parse_precision(text: str | None) -> ComputePrecision | None:
    """Return a precision by its name. OptionError for another text."""
    for known in get_args(ComputePrecision):
        if text == known:
            return known  # type: ignore[no-any-return]
    if text:
        raise OptionError(f"precision: expected one of {', '.join(get_args(ComputePrecision))}")
    return None


def _precisions(upscaler: Upscaler) -> tuple[ComputePrecision, ...]:
    """What a model's engine computes in, of which some may turn out not to be there; what it computes in now first."""
    own, spec = upscaler.precision, ENGINES.get(upscaler.engine.engine)
    graphs = (*upscaler.contract.precisions, *REDUCED_PRECISIONS)
    return own, *(known for known in (spec.precisions if spec else ()) if known in graphs and known != own)


def _weights(upscaler: Upscaler) -> int:
    return sum(map(len, upscaler.bundle.graphs.values()))


def _model(name: str, upscaler: Upscaler) -> Model:
    digest = hashlib.sha256(f"{upscaler.description} {upscaler.options}".encode())
    for graph_name, graph in sorted(upscaler.bundle.graphs.items()):
        digest.update(graph_name.encode() + hashlib.sha256(graph).digest())
    return Model(name, upscaler, digest.hexdigest(), has_local_features(upscaler))
