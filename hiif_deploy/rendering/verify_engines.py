"""Engines against the outputs of PyTorch that the bundle stores: a build that succeeded proves nothing."""

import logging
from collections.abc import Mapping

import numpy as np

from hiif_deploy.backends.base import Backend
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import ON_HOST
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.engine_store.entry import StoredEngine
from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import ParityError
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.renderer import Renderer
from hiif_deploy.rendering.verify import TOLERANCES, Difference, check_stored, compare_stored, measure

logger = logging.getLogger(__name__)
Engines = Mapping[str, StoredEngine]
VERIFIED, PROBLEM = "verified", "problem"
"""Entries of an engine's report: whether its outputs are PyTorch's, and what was wrong where it was kept anyway."""
LARGE_SIDE, LARGE_SCALE = 96, 3.3
"""A picture that takes many blocks, so that repeated runs are proven too."""


def require_verified(
    bundle: Bundle, backend: Backend, engines: Engines, precision: Precision, store: EngineStore
) -> None:
    """Verify engines that never were; those kept by force are named. ParityError, and removed, where they are wrong."""
    problems = {str(engine.sidecar.report.get(PROBLEM, "")) for engine in engines.values()} - {""}
    if problems:
        logger.warning("these engines are out of tolerance and were kept by --force: %s", "; ".join(sorted(problems)))
    elif not all(engine.sidecar.report.get(VERIFIED) is True for engine in engines.values()):
        verify_engines(bundle, backend, engines, precision, store)


def verify_engines(
    bundle: Bundle, backend: Backend, engines: Engines, precision: Precision, store: EngineStore,
    *, force: bool = False,
) -> dict[str, Difference]:  # fmt: skip
    """Run the backend's engines on the stored pictures and a larger one; the distances go into their reports.

    ParityError where one is beyond tolerance, and then the engines are removed, unless `force` keeps them.
    """
    found = measure_engines(bundle, backend)
    problem = describe_problem(found, precision, backend.fallback_blocks)
    if problem and not force:
        for engine in engines.values():
            store.remove(engine)
        raise ParityError(f"{problem}; these engines are removed (hiif-deploy build --force keeps them)")
    for engine in engines.values():
        report = {VERIFIED: not problem, "fallback_blocks": backend.fallback_blocks, **worst(found)}
        store.set_report(engine, {**report, PROBLEM: problem} if problem else report)
    logger.log(
        logging.WARNING if problem else logging.INFO, "engines of %s: %s, %.1f dB from PyTorch",
        bundle.contract.name, problem or "verified", worst(found)["psnr_db"],
    )  # fmt: skip
    return found


def measure_engines(bundle: Bundle, backend: Backend) -> dict[str, Difference]:
    """Every stored case, and a larger picture against the fp32 graphs on the processor, by description."""
    renderer = Renderer(bundle, backend)
    found = compare_stored(renderer)
    image = np.ascontiguousarray(sample("astronaut")[:LARGE_SIDE, :LARGE_SIDE])
    side = round(LARGE_SIDE * LARGE_SCALE)
    with Renderer(bundle, HostBackend(bundle, ON_HOST)) as reference:
        expected = reference.render_unclamped(reference.encode(image), size=(side, side))
    output = renderer.render_unclamped(renderer.encode(image), size=(side, side))
    return {**found, f"{LARGE_SIDE}x{LARGE_SIDE} → {side}x{side}": measure(output, expected)}


def describe_problem(found: Mapping[str, Difference], precision: Precision, fallback_blocks: int) -> str:
    """Reason why the engines fail verification; empty where they pass."""
    try:
        check_stored(found, TOLERANCES[precision])
    except ParityError as error:
        return str(error)
    return f"{fallback_blocks} blocks of the test pictures gave values that are no numbers" if fallback_blocks else ""


def worst(found: Mapping[str, Difference]) -> dict[str, float]:
    """The largest distances of all cases. A case that is no number counts as 1 and 0 dB, because JSON has no ∞."""
    return {
        "largest": min(1.0, max(difference.largest for difference in found.values())),
        "quantile": min(1.0, max(difference.quantile for difference in found.values())),
        "psnr_db": max(0.0, min(difference.psnr for difference in found.values())),
    }
