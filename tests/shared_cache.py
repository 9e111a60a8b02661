"""What is expensive to make and equal for all tests: made once, kept between runs, shared by processes.

A folder of the repository, `.test-cache`, which `make clean` removes. What lies in it is found by a hash of everything
that it was made from, so a change of the exporter's sources makes it again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
GRAPH_SOURCES = (
    "export/hiif_export/**/*.py", "training/hiif_training/models/*.py", "training/hiif_training/queries/*.py",
    "hiif_deploy/bundle/contract.py", "hiif_deploy/geometry/grid.py", "hiif_deploy/geometry/ax*.py",
    "hiif_deploy/geometry/*axis.py",
)  # fmt: skip
"""Sources that decide what a graph is."""
BUNDLE_SOURCES = ("export/**/*.py", "training/**/*.py", "hiif_deploy/**/*.py")
"""Sources that decide what a bundle is, its verification included."""
LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")
"""Distributions that decide it too."""


def cache_folder() -> Path:
    """Where it is kept; `HIIF_TEST_CACHE` names another place."""
    folder = Path(os.environ.get("HIIF_TEST_CACHE") or ROOT / ".test-cache")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shared(name: str, key: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` fills, found by name and key; made by one process while the others wait."""
    known = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = cache_folder() / f"{name}-{known}"
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
            try:
                make(aside / name)
                (aside / name).rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return folder


@cache
def sources_key(sources: tuple[str, ...]) -> str:
    """Of the sources, by patterns from the root, and of the libraries."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in sources for path in ROOT.glob(pattern)}):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    for name in LIBRARIES:
        try:
            found.update(f"{name} {version(name)}".encode())
        except PackageNotFoundError:
            continue
    return found.hexdigest()
