"""Finds, builds, loads and verifies the TensorRT engines of a bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from hiif_deploy.backends.cuda.device import Device
from hiif_deploy.backends.cuda.open import open_device
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.tensorrt.graphs import trt_graphs
from hiif_deploy.backends.tensorrt.library import Library, load_library
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.engine_store.entry import Entry, StoredEngine
from hiif_deploy.engine_store.identity import EngineEnvironment
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineAbsentError, EngineError, EngineLoadError, OptionError
from hiif_deploy.rendering.verify_engines import require_verified
from hiif_deploy.support.install import install_command

if TYPE_CHECKING:
    from hiif_deploy.backends.tensorrt.backend import TrtBackend

logger = logging.getLogger(__name__)
BUILDERS = "hiif_deploy.engine_builders"
"""Entry points of what can build engines: (bundle, precision, library, environment, store) → None."""


def open_tensorrt(bundle: Bundle, options: EngineOptions) -> TrtBackend:
    """Stored engines for this machine, or newly built ones, loaded on the GPU and verified."""
    if options.device not in ("cuda", "cuda:0"):
        raise OptionError(
            f"device {options.device}: TensorRT runs on the first GPU that CUDA shows; leave it out, and choose "
            "another GPU with CUDA_VISIBLE_DEVICES"
        )
    library, store = load_library(options.library), EngineStore.open(options.store)
    try:
        return _open_stored(bundle, options, library, store)
    except EngineLoadError as error:
        # Whole, of this machine, and not taken all the same: it is removed by now, and built again.
        logger.warning("%s; that is done now", error)
        return _open_stored(bundle, options, library, store)


def _open_stored(bundle: Bundle, options: EngineOptions, library: Library, store: EngineStore) -> TrtBackend:
    """A stored engine that does not load is removed before the error is raised."""
    device = open_device(options.device_layer)
    precision: Precision = "fp32" if options.precision == "fp32" else "fp16"
    engines: dict[str, StoredEngine] = {}
    try:
        engines = find_or_build(bundle, precision, library, describe(library, device), store, builds=options.builds)
        backend = load_engines(bundle, precision, engines, library, device, options)
        require_verified(bundle, backend, engines, precision, store)
        return backend
    except BaseException as error:
        device.close()
        if isinstance(error, EngineLoadError):
            store.remove(engines[error.graph])
        raise


def load_engines(
    bundle: Bundle, precision: Precision, engines: Mapping[str, StoredEngine], library: Library, device: Device,
    options: EngineOptions,
) -> TrtBackend:  # fmt: skip
    """Stored engines on the GPU; the backend closes the device. EngineError where one does not load."""
    from hiif_deploy.backends.tensorrt.backend import TrtBackend

    data = {name: engine.load() for name, engine in engines.items()}
    return TrtBackend(bundle, precision, data, library, device, options)


def describe(library: Library, device: Device) -> EngineEnvironment:
    """Library, GPU and driver that engines built here depend on."""
    facts = device.facts()
    return EngineEnvironment(library.name, library.version, facts.gpu, facts.capability, facts.driver)


def find_or_build(
    bundle: Bundle, precision: Precision, library: Library, environment: EngineEnvironment, store: EngineStore,
    *, builds: bool = True,
) -> dict[str, StoredEngine]:  # fmt: skip
    """Graph name → engine. What does not fit is named; what is missing is built, where a builder is installed."""
    found = find_engines(bundle, precision, environment, store)
    missing = [name for name, engine in found.items() if engine is None]
    if missing and not builds:
        raise EngineError(
            f"no {precision} engine for {', '.join(missing)} of {bundle.contract.name} is in {store.root}: build them "
            "once, with hiif-deploy build or --engine tensorrt"
        )
    if missing:
        logger.warning(
            "no %s engine for %s of %s in %s: building", precision, ", ".join(missing), bundle.contract.name, store.root
        )
        builder = _builder()
        builder(bundle, precision, library, environment, store)
        found = find_engines(bundle, precision, environment, store)
    engines = {name: engine for name, engine in found.items() if engine is not None}
    if lacking := found.keys() - engines.keys():
        raise EngineError(f"the build gave no usable engine for {', '.join(sorted(lacking))}")
    return engines


def find_engines(
    bundle: Bundle, precision: Precision, environment: EngineEnvironment, store: EngineStore
) -> dict[str, StoredEngine | None]:
    """Graph name → newest engine that runs here and is whole, or None."""
    return {
        name: _find_engine(store.find(environment, bundle.contract.name, name, precision, graph.sha256))
        for name, (graph, _) in trt_graphs(bundle, precision).items()
    }


def _find_engine(entries: list[Entry]) -> StoredEngine | None:
    for entry in entries:
        if isinstance(entry, StoredEngine):
            return entry
        logger.warning("%s: %s; it is not used", entry.path.name, entry.reason)
    return None


def _builder() -> Callable[..., None]:
    points = list(entry_points(group=BUILDERS))
    if not points:
        raise EngineAbsentError(
            f"no engine builder is installed; add it with: {install_command('engines')}, or build elsewhere on "
            "the same kind of machine and copy the store"
        )
    builder: Callable[..., None] = points[0].load()
    return builder
