"""Two runs compared: what became faster or slower by more than either run's own scatter."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiif_deploy.bench.run import Result
from hiif_deploy.errors import OptionError


@dataclass(frozen=True)
class Change:
    """One variant in both runs."""

    model: str
    """Its name."""
    variant: str
    """Its name."""
    scale: float
    """Enlargement of each side."""
    before_s: float
    """Median of the earlier run."""
    now_s: float
    """Median of this one."""
    ratio: float
    """before / now: higher is faster now."""
    is_beyond_quartiles: bool
    """Whether the quartiles of the two runs do not overlap; otherwise the difference may be chance."""


@dataclass(frozen=True)
class Earlier:
    """A run that was written with --json."""

    path: Path
    """Where it was read."""
    results: tuple[dict[str, Any], ...]
    """Its results."""
    processor: str
    """Where it was measured."""


def read_run(path: Path) -> Earlier:
    """OptionError where the file is not a run's."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        results = tuple({**entry, "key": _key(entry), "quartiles_s": _pair(entry)} for entry in facts["results"])
        return Earlier(path, results, str(facts["machine"]["processor"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OptionError(
            f"--against {path}: not a file that hiif-deploy bench --json wrote ({type(error).__name__}: {error})"
        ) from error


def compare(results: Sequence[Result], earlier: Earlier) -> list[Change]:
    """Pairs of results that both runs measured: same model, variant, scale and picture."""
    before = {entry["key"]: entry for entry in earlier.results}
    found = []
    for result in results:
        old = before.get((result.model, result.variant, result.scale, result.source))
        if old is not None:
            (old_low, old_high), (low, high) = old["quartiles_s"], result.quartiles_s
            apart = old_high < low or high < old_low
            ratio = old["median_s"] / result.median_s
            found.append(
                Change(result.model, result.variant, result.scale, old["median_s"], result.median_s, ratio, apart)
            )
    return found


def _key(entry: dict[str, Any]) -> tuple[str, str, float, tuple[int, int]]:
    height, width = entry["source"]
    return str(entry["model"]), str(entry["variant"]), float(entry["scale"]), (int(height), int(width))


def _pair(entry: dict[str, Any]) -> tuple[float, float]:
    low, high = entry["quartiles_s"]
    if not 0 < float(low) <= float(entry["median_s"]) <= float(high):
        raise ValueError(f"median and quartiles of {entry['variant']}")
    return float(low), float(high)
