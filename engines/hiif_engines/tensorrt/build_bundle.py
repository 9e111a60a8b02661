"""Builds and stores engines for every graph of a bundle. `rendering.verify_engines` runs and verifies them."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import partial

from hiif_deploy.backends.engines import ENGINES
from hiif_deploy.backends.tensorrt.graphs import trt_graphs
from hiif_deploy.backends.tensorrt.library import Library
from hiif_deploy.bundle.contract import GraphContract, Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.engine_store.entry import StoredEngine
from hiif_deploy.engine_store.identity import EngineEnvironment, EngineIdentity
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.rendering.verify_engines import VERIFIED
from hiif_deploy.support.durations import duration
from hiif_engines.tensorrt.build import DEFAULT_FLAGS, BuildFlags, build_engine
from hiif_engines.tensorrt.profiles import PRESETS, BuildSizes, Profile, make_profiles, make_shared_profiles

logger = logging.getLogger(__name__)
Engines = dict[str, StoredEngine]


@dataclass(frozen=True)
class BuildRequest:
    """Precision, sizes and settings of the requested engines."""

    precision: Precision = "fp16"
    """Precision of the graphs, which the engine must have."""
    sizes: BuildSizes = PRESETS["1080p"]
    """Picture sizes that the engines serve."""
    flags: BuildFlags = DEFAULT_FLAGS
    """Settings of the TensorRT builder."""


def build_bundle(
    bundle: Bundle, request: BuildRequest, library: Library, environment: EngineEnvironment, store: EngineStore,
    *, show_progress: bool = True,
) -> Engines:  # fmt: skip
    """Return graph name → engine from the store, built where it is missing. Nothing is verified."""
    ENGINES["tensorrt"].check(bundle.contract)
    profiles = make_profiles(bundle.contract, request.precision, request.sizes)
    profiles |= make_shared_profiles(bundle.contract, request.sizes)
    graphs = trt_graphs(bundle, request.precision)
    engines = {}
    for name, profile in profiles.items():
        graph, model = graphs[name]
        identity = identify(bundle, graph, profile, request, environment)
        build = partial(build_engine, library, graph, model, profile, request.flags, show_progress=show_progress)
        engines[name] = store.get_or_build(identity, lambda build=build: (build(), {VERIFIED: False}))  # type: ignore[misc]
        sidecar = engines[name].sidecar
        took = duration(sidecar.build_seconds)
        logger.info("%s %s: %.1f MB, built in %s", name, request.precision, sidecar.size / 1e6, took)
    return engines


def identify(
    bundle: Bundle, graph: GraphContract, profile: Profile, request: BuildRequest, environment: EngineEnvironment
) -> EngineIdentity:
    """Return everything that the engine of one graph would depend on."""
    return EngineIdentity(
        bundle=bundle.contract.name,
        graph=graph.name,
        precision=request.precision,
        onnx_sha256=graph.sha256,
        **asdict(environment),
        profiles={tensor: (bounds.min, bounds.opt, bounds.max) for tensor, bounds in profile.items()},
        flags=request.flags.metadata(),
    )


def build_missing(
    bundle: Bundle, precision: Precision, library: Library, environment: EngineEnvironment, store: EngineStore
) -> None:
    """Build with the defaults and no questions: the runtime calls this where it finds no engine (entry point)."""
    build_bundle(bundle, BuildRequest(precision), library, environment, store)
