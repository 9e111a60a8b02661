"""Objects by name, imported when they are needed."""

import importlib
from importlib.metadata import entry_points
from typing import Any


def resolve(name: str) -> Any:
    """Return the object that `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def registered(group: str, name: str) -> Any | None:
    """Return the object that another area registers as an entry point; None where this installation has none."""
    points = list(entry_points(group=group, name=name))
    return points[0].load() if points else None
