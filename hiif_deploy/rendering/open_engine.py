"""Opens a bundle on the engine that the user names; `auto` says once which it took and why."""

import logging
from collections.abc import Callable

from hiif_deploy.backends.base import Backend
from hiif_deploy.backends.choice import auto_attempts
from hiif_deploy.backends.engines import AUTO, ENGINES, EngineSpec
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import EngineAbsentError, HiifError
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.resolve import registered, resolve

logger = logging.getLogger(__name__)
BACKENDS = "hiif_deploy.backends"
"""Entry points of engines that other areas bring, by the engine's name: (bundle, options) → Backend."""


def open_backend(bundle: Bundle, options: EngineOptions) -> Backend:
    """The backend that `options` name. EngineError, or EngineAbsentError, where it cannot be had."""
    if options.engine == AUTO:
        return _open_best(bundle, options)
    engine = ENGINES[options.engine]
    engine.check(bundle.contract)
    if engine.extra is not None:
        require_extra(engine.extra)
    return _opener(engine)(bundle, options)


def _opener(engine: EngineSpec) -> Callable[[Bundle, EngineOptions], Backend]:
    found = registered(BACKENDS, engine.name) if engine.opener is None else resolve(engine.opener)
    if found is None:
        raise EngineAbsentError(f"this installation of hiif-deploy brings no {engine.name} engine: install it again")
    opener: Callable[[Bundle, EngineOptions], Backend] = found
    return opener


def _open_best(bundle: Bundle, options: EngineOptions) -> Backend:
    reasons: list[str] = []
    last: HiifError | None = None
    for name, attempt in auto_attempts(bundle.contract, options):
        try:
            backend = open_backend(bundle, attempt)
        except HiifError as error:
            reasons.append(f"not {name} ({error})")
            last = error
            continue
        logger.warning("%s", "; ".join([f"engine auto: {backend.description}", *reasons]))
        return backend
    logger.warning("engine auto: %s", "; ".join(reasons))
    assert last is not None  # there is always an attempt
    raise last
