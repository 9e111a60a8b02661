"""A training recipe: one TOML file, validated, unknown keys refused."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from hiif_deploy.errors import OptionError

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and for how long (design/model.md T1, T2)."""

    model: Mapping[str, Any]
    """`{name, args}` as in a checkpoint."""
    data: tuple[str, ...] = ()
    """Folders of pictures, searched recursively."""
    seed: int = 0
    """Decides the initial weights and every sample."""
    steps: int = 10_000
    """Optimizer steps."""
    batch: int = 16
    """Crops per step."""
    patch: int = 48
    """Side of the low-resolution crop in pixels; patch² output pixels are asked per crop."""
    scale: tuple[float, float] = (1.0, 4.0)
    """Range of the uniformly drawn scale of each sample."""
    shrink: tuple[float, float] = (1.0, 1.0)
    """Range by which a picture is first shrunk (antialiased), which removes JPEG noise from the target."""
    learning_rate: float = 4e-4
    """Peak, reached after the warm-up."""
    final_learning_rate: float = 2e-6
    """At the end of the cosine."""
    warmup: int = 500
    """Steps of linear warm-up."""
    ema: float = 0.0
    """Decay of the averaged weights; 0 trains without them."""
    precision: Precision = "fp32"
    """Arithmetic of the forward and backward pass."""
    save_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("seed", "steps", "batch", "patch", "warmup", "save_every"):
            if type(getattr(self, name)) is not int:
                raise OptionError(f"recipe: {name} is {getattr(self, name)!r}, expected a whole number")
        if not isinstance(self.data, tuple) or not all(isinstance(folder, str) for folder in self.data):
            raise OptionError(f"recipe: data is {self.data!r}, expected a list of folders")
        for name in ("steps", "batch", "patch", "save_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"recipe: {name} is {getattr(self, name)}, expected at least 1")
        for name in ("scale", "shrink"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise OptionError(f"recipe: {name} is [{low}, {high}], expected 1 ≤ low ≤ high")
        if not 0 <= self.ema < 1:
            raise OptionError(f"recipe: ema is {self.ema}, expected 0 ≤ ema < 1")
        if self.precision not in ("fp32", "bf16"):
            raise OptionError(f"recipe: precision is {self.precision!r}, expected 'fp32' or 'bf16'")


def read_recipe(path: Path) -> Recipe:
    """Parse and validate a TOML recipe; OptionError names an unknown key and the nearest known one."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"recipe {path}: cannot be read: {error}") from error
    known = [field.name for field in fields(Recipe)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"
            raise OptionError(f"recipe {path}: unknown key {key!r}{hint}")
    if "model" not in values:
        raise OptionError(f"recipe {path}: [model] with name and args is missing")
    try:
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Recipe(**lists)
    except (TypeError, ValueError, OptionError) as error:
        raise OptionError(f"recipe {path}: {str(error).removeprefix('recipe: ')}") from error
