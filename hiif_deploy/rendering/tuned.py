"""How the decoder is called on this machine, as `tune` measured and stored it."""

import json
import logging
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime

from hiif_deploy.backends.choice import runs_on_gpu
from hiif_deploy.backends.engines import AUTO, ENGINES
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.providers import full_provider
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import OptionError
from hiif_deploy.support import cache_dir as store_root
from hiif_deploy.support.cache_dir import keep_measured, measured_path
from hiif_deploy.support.system_table import CPU_INFO, table_value

logger = logging.getLogger(__name__)
FOLDER = "tuning"
"""Below the store's root."""


@dataclass(frozen=True)
class CallConfig:
    """How the queries are spread over the processor."""

    query_block: int
    """Most queries per decoder call."""
    call_threads: int
    """Threads inside one decoder call; so many calls run at once that all are busy."""

    def __post_init__(self) -> None:
        if not (0 < self.query_block <= 1 << 24 and 0 < self.call_threads <= 1 << 12):
            raise OptionError(f"call configuration {self.query_block} × {self.call_threads}: expected positive numbers")


@dataclass(frozen=True)
class Tuning:
    """The fastest call configuration and all that were measured."""

    bundle: str
    """Its name, for people."""
    engine: str
    """Engine and arithmetic, for people."""
    processor: str
    """Its name and the threads used."""
    call: CallConfig
    """The fastest."""
    seconds: dict[str, float]
    """Median seconds of every configuration that was tried, by `BLOCK x THREADS`."""


def is_tunable(engine: EngineOptions) -> bool:
    """Whether the decoder's calls run on the processor."""
    return engine.engine != AUTO and ENGINES[engine.engine].is_tunable and not runs_on_gpu(engine)


def find(bundle: Bundle, engine: EngineOptions) -> CallConfig | None:
    """Stored configuration for this bundle, engine and machine, or None. A damaged file is reported and not used."""
    path = _path(bundle, engine) if is_tunable(engine) else None
    if path is None or not path.is_file():
        return None
    try:
        return _read(path).call
    except (OSError, ValueError, TypeError, KeyError, OptionError) as error:
        logger.warning("%s: not a tuning (%s); it is not used: hiif-deploy tune writes it anew", path, error)
        return None


def applied(bundle: Bundle, engine: EngineOptions) -> EngineOptions:
    """The options with the stored threads per call, where none are chosen."""
    call = find(bundle, engine) if engine.call_threads is None else None
    return replace(engine, call_threads=call.call_threads) if call else engine


def stored() -> list[Tuning]:
    """All tunings of this user that can be read, for `doctor`."""
    root = store_root.wanted_root()
    found = []
    for path in sorted((root / FOLDER).glob("*.json")) if root else []:
        try:
            found.append(_read(path))
        except (OSError, ValueError, TypeError, KeyError, OptionError):
            continue
    return found


def store(bundle: Bundle, engine: EngineOptions, tuning: Tuning) -> Path:
    """Write a tuning; EngineError where there is no place for it."""
    return keep_measured(_path(bundle, engine), asdict(tuning))


def processor() -> str:
    """Name of the processor as the system gives it."""
    return table_value(CPU_INFO, "model name") or platform.processor() or platform.machine()


def _path(bundle: Bundle, engine: EngineOptions) -> Path | None:
    facts = [
        sorted(graph.sha256 for graph in bundle.contract.graphs), engine.engine, engine.precision,
        full_provider(engine.provider), engine.thread_count, processor(), onnxruntime.__version__,
    ]  # fmt: skip
    return measured_path(FOLDER, facts)


def _read(path: Path) -> Tuning:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Tuning(**{**value, "call": CallConfig(**value["call"])})
