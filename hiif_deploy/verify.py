"""A bundle against the answers of PyTorch that it stores. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hiif_deploy.errors import ParityError
from hiif_deploy.upscaler import Upscaler


def compare_stored(upscaler: Upscaler) -> dict[str, float]:
    """Largest absolute deviation of the colours (1 being white) of every stored case, by its description."""
    reference = upscaler.bundle.reference()
    found = {}
    for n in range(sum(name.startswith("image_") for name in reference)):
        image, expected = reference[f"image_{n}"], reference[f"colours_{n}"]
        size = (expected.shape[0], expected.shape[1])
        error = float(np.abs(upscaler.render_unclamped(upscaler.encode(image), size=size) - expected).max())
        found[f"{image.shape[1]}x{image.shape[0]} → {size[1]}x{size[0]}"] = error
    return found


def check_stored(found: Mapping[str, float], tolerance: float) -> None:
    """ParityError where a case deviates by more, is not a number, or none is stored."""
    if not found:
        raise ParityError("the bundle stores no reference answers; verify it with --checkpoint")
    for name, error in found.items():
        if not error <= tolerance:
            raise ParityError(f"{name}: deviates from PyTorch's stored answer by {error:.2e}, allowed {tolerance:.0e}")
