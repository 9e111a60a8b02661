"""The paper's own figures, read from `paper_tables.toml`, to print beside measured ones."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

ENCODERS = {"edsr-baseline": "EDSR-baseline", "edsr-mini": "EDSR-baseline", "edsr": "EDSR-baseline"}
ENCODERS |= {"rdn": "RDN", "swinir": "SwinIR"}
"""Encoder of a checkpoint → encoder in the tables; an EDSR of any size is compared with EDSR-baseline."""
METHODS = {"pixelshuffle": "encoder only"}
"""Model of a checkpoint → method in the tables, where that is not HIIF."""
SETS = {"b100": "BSD100", "bsds100": "BSD100", "div2k_valid_hr": "DIV2K"}
"""Lower-case folder name → name of the set in the tables."""


@cache
def tables() -> Mapping[str, Any]:
    """Return Tables 1 to 4 as the file stores them."""
    return tomllib.loads((files("hiif_training") / "paper_tables.toml").read_text(encoding="utf-8"))


def paper_row(spec: Mapping[str, Any], set_name: str, scale: float) -> tuple[str, float] | None:
    """Return (label, PSNR) of HIIF with the model's encoder on a set and scale; of bicubic for an empty spec, and of
    the encoder with its own up-sampler for a fixed-scale model.

    None where the paper has no such figure.
    """
    encoder_spec = spec.get("args", {}).get("encoder_spec", {})
    encoder = ENCODERS.get(encoder_spec.get("name", ""), "") if spec else ""
    method = METHODS.get(spec["name"], "HIIF") if spec else "Bicubic"
    value = figure(encoder, method, set_name, scale)
    return None if value is None else (f"{method}, {encoder}" if encoder else method, value)


def figure(encoder: str, method: str, set_name: str, scale: float) -> float | None:
    """Return one PSNR of Tables 1 and 2; None where there is none."""
    name = known_set(set_name)
    if name is None or scale not in tables()["scales"][name]:
        return None
    column = tables()["scales"][name].index(scale)
    for row in tables()["psnr"]:
        if (row["encoder"], row["method"]) == (encoder, method) and name in row:
            value = float(row[name][column])
            return None if math.isnan(value) else value
    return None


def known_set(name: str) -> str | None:
    """Return the tables' name of a set's folder; None where they have no such set."""
    known = {n.lower(): n for n in tables()["scales"]} | SETS
    return known.get(name.lower())
