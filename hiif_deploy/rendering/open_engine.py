"""Opens a bundle on the engine that the user names; `auto` says once which it took and why."""

import logging
from collections.abc import Callable

from hiif_deploy.backends.base import Backend
from hiif_deploy.backends.choice import auto_attempts, runs_on_gpu
from hiif_deploy.backends.cuda.open import has_driver
from hiif_deploy.backends.engines import AUTO, ENGINES, EngineSpec
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import EngineAbsentError, HiifError, MissingExtraError
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.resolve import registered, resolve

logger = logging.getLogger(__name__)
BACKENDS = "hiif_deploy.backends"
"""Entry points of engines that other areas bring, by the engine's name: (bundle, options) → Backend."""


Adapt = Callable[[EngineOptions], EngineOptions]
"""What is changed of the options of an engine before it is opened."""


def open_backend(bundle: Bundle, options: EngineOptions) -> Backend:
    """The backend that `options` name. EngineError, or EngineAbsentError, where it cannot be had."""
    return open_chosen(bundle, options)[0]


def open_chosen(
    bundle: Bundle, options: EngineOptions, adapt: Adapt = lambda options: options
) -> tuple[Backend, EngineOptions]:
    """`open_backend`, and the options that it was opened with, which name its engine."""
    if options.engine == AUTO:
        return _open_best(bundle, options, adapt)
    engine = ENGINES[options.engine]
    engine.check(bundle.contract)
    if engine.extra is not None:
        require_extra(engine.extra)
    options = adapt(options)
    return _opener(engine)(bundle, options), options


def _opener(engine: EngineSpec) -> Callable[[Bundle, EngineOptions], Backend]:
    found = registered(BACKENDS, engine.name) if engine.opener is None else resolve(engine.opener)
    if found is None:
        raise EngineAbsentError(f"this installation of hiif-deploy brings no {engine.name} engine: install it again")
    opener: Callable[[Bundle, EngineOptions], Backend] = found
    return opener


def _open_best(bundle: Bundle, options: EngineOptions, adapt: Adapt) -> tuple[Backend, EngineOptions]:
    """What is not installed, and GPUs that are not there, are no news; other reasons are a warning."""
    reasons: list[str] = []
    last: HiifError | None = None
    level, has_gpu = logging.INFO, has_driver()
    for name, attempt in auto_attempts(bundle.contract, options):
        try:
            if runs_on_gpu(attempt) and not has_gpu:
                raise EngineAbsentError("this machine has no driver of NVIDIA's")
            backend, opened = open_chosen(bundle, attempt, adapt)
        except HiifError as error:
            reasons.append(f"not {name} ({error})")
            last = error
            if not isinstance(error, EngineAbsentError | MissingExtraError):
                level = logging.WARNING
            continue
        logger.log(level, "%s", "; ".join([f"engine auto: {backend.description}", *reasons]))
        return backend, opened
    logger.warning("engine auto: %s", "; ".join(reasons))
    assert last is not None  # there is always an attempt
    raise last
