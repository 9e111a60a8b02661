"""Which models the benchmark takes."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from hiif_deploy.bench.case import BenchModel
from hiif_deploy.bundle.loader import DEFAULT_MODEL, open_bundle
from hiif_deploy.errors import OptionError
from hiif_deploy.support.extras import require_extra
from hiif_deploy.support.install import install_command

ENTRY_POINTS = "hiif_deploy.bench_models"
"""Name → what makes the model; it needs PyTorch and belongs to the area that has it."""
FULL = "full"
"""The full-size architecture with random weights."""


def open_model(location: str, checkpoint: Path | None, *, show_progress: bool) -> BenchModel:
    """A bundle, a shipped model, or `full`. HiifError where it cannot be had."""
    if location != FULL:
        return BenchModel(location, open_bundle(location), checkpoint)
    if checkpoint is not None:
        raise OptionError("--checkpoint belongs to a bundle that was exported from it; name that bundle")
    require_extra("export")
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if FULL not in points:
        raise OptionError(f"model {FULL} is not registered; install this project again: {install_command('export')}")
    made = points[FULL].load()(show_progress=show_progress)
    assert isinstance(made, BenchModel)
    return made


def default_models() -> tuple[str, ...]:
    """Models that are measured where none is named."""
    return FULL, DEFAULT_MODEL
