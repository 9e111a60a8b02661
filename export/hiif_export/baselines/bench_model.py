"""The full-size model that the benchmark uses where none is named: exported once, kept in the user's cache folder."""

import hashlib
import logging
from pathlib import Path

import torch

import hiif_training.models
from hiif_deploy.bench.case import BenchModel
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.support.cache_dir import fallback_root, wanted_root
from hiif_deploy.support.files import atomic_directory
from hiif_export.export import export_bundle
from hiif_export.parity.parity import cases
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.models.registry import make_model

logger = logging.getLogger(__name__)
NAME = "hiif-edsr-baseline"
SPEC = {"name": "hiif", "args": {"encoder_spec": {"name": "edsr-baseline", "args": {"no_upsampling": True}}}}
"""As published: 2,955,511 parameters, 256 wide, six levels, two attention blocks."""
SEED = 0
REMARK = "random weights: times hold, dB show no more than the order of magnitude"
BUNDLE, CHECKPOINT = "bundle", "model.pth"


def full_size(*, show_progress: bool = False) -> BenchModel:
    """Return a published-size HIIF with random weights, exported on first use.

    Random weights show speed exactly and deviations to the order of magnitude.
    """
    folder = (wanted_root() or fallback_root()) / "bench" / f"{NAME}-{_version()}"
    if not folder.is_dir():
        logger.info("exporting the full-size model once, into %s", folder)
        torch.manual_seed(SEED)
        model = make_model(SPEC).eval()
        with atomic_directory(folder) as aside:
            save_checkpoint(aside / CHECKPOINT, model, SPEC)
            export_bundle(
                model, SPEC, aside / BUNDLE, name=NAME, provenance={"weights": f"random, seed {SEED}"},
                suite=cases(sizes=((16, 24),), scales=(2.0, 3.3)), show_progress=show_progress,
            )  # fmt: skip
    return BenchModel(NAME, open_bundle(folder / BUNDLE), folder / CHECKPOINT, REMARK)


def _version() -> str:
    """Return a hash of everything that the exported graphs depend on, so that a changed exporter exports again."""
    export = Path(__file__).parents[1]
    folders = (export, export / "graphs", export / "decoders", Path(next(iter(hiif_training.models.__path__))))
    files = (path for folder in folders for path in sorted(folder.glob("*.py")))
    digest = hashlib.sha256(torch.__version__.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
