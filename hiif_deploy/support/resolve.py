"""Objects by name, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def resolve(name: str) -> Any:
    """Return the object that `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
