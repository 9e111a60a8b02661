"""Puts the double in TensorRT's place.

with installed(device=FakeDevice(), version="10.13.3.9") as tensorrt:
    ...                         # `import tensorrt` anywhere gives the double, new and untouched
    tensorrt.testing.calls      # what was called
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent


@contextmanager
def installed(device: Any = None, version: str = "11.4.0.106") -> Iterator[Any]:
    """The double as a module; what `tensorrt` was before comes back afterwards."""
    before = _taken()
    sys.path.insert(0, str(FOLDER))
    try:
        module: Any = importlib.import_module("tensorrt")
        module.__version__ = version
        module.testing.device = device
        yield module
    finally:
        sys.path.remove(str(FOLDER))
        _taken()
        sys.modules.update(before)


def _taken() -> dict[str, Any]:
    """Remove `tensorrt` and its parts from the loaded modules."""
    names = [name for name in sys.modules if name == "tensorrt" or name.startswith("tensorrt.")]
    return {name: sys.modules.pop(name) for name in names}
