"""A bundle against the outputs of PyTorch that it stores, and how far outputs may differ. Needs no PyTorch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import ParityError
from hiif_deploy.rendering.renderer import Renderer

QUANTILE = 0.9999
"""Of the colours of a case, for tolerances that a single one shall not decide."""


@dataclass(frozen=True)
class Difference:
    """Between two outputs for the same queries, colours with 1 being white. A value that is no number counts as ∞."""

    largest: float
    """Largest absolute difference."""
    quantile: float
    """99.99th percentile of the absolute difference."""
    psnr: float
    """In dB, at most 200."""


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may differ from those of fp32 PyTorch."""

    largest: float
    """Most of `Difference.largest`."""
    quantile: float
    """Most of `Difference.quantile`."""
    psnr: float
    """Least of `Difference.psnr`."""


TOLERANCES: dict[ComputePrecision, Tolerance] = {
    "fp32": Tolerance(largest=1e-4, quantile=1e-4, psnr=80),
    "fp16": Tolerance(largest=8 / 255, quantile=1 / 255, psnr=60),
    "bf16": Tolerance(largest=16 / 255, quantile=2 / 255, psnr=55),
    "int8": Tolerance(largest=24 / 255, quantile=4 / 255, psnr=50),
}
"""Lower arithmetics are judged by their bulk: a single colour may be off by more."""


def measure(output: NDArray[Any], expected: NDArray[Any]) -> Difference:
    """Compare two arrays of one shape."""
    error = np.abs(output.astype(np.float64) - expected)
    if not np.isfinite(error).all():
        return Difference(math.inf, math.inf, -math.inf)
    mean = float(np.mean(error * error))
    psnr = min(200.0, -10 * math.log10(mean)) if mean > 0 else 200.0
    return Difference(float(error.max()), float(np.quantile(error, QUANTILE)), psnr)


def check_difference(what: str, found: Difference, tolerance: Tolerance, hint: str = "") -> None:
    """ParityError that begins with `what` and ends with `hint` where `found` exceeds `tolerance`."""
    if not found.largest <= tolerance.largest:
        problem = f"by {found.largest:.2e}, allowed {tolerance.largest:.1e}"
    elif not found.quantile <= tolerance.quantile:
        problem = f"by {found.quantile:.2e} at the 99.99th percentile, allowed {tolerance.quantile:.1e}"
    elif not found.psnr >= tolerance.psnr:
        problem = f"so that they lie {found.psnr:.1f} dB from it, wanted {tolerance.psnr:.0f} dB"
    else:
        return
    raise ParityError(f"{what} differ from PyTorch {problem}{hint}")


def compare_stored(renderer: Renderer) -> dict[str, Difference]:
    """Every stored case by its description, run and compared."""
    reference = renderer.bundle.reference()
    found = {}
    for n in range(sum(name.startswith("image_") for name in reference)):
        image, expected = reference[f"image_{n}"], reference[f"colours_{n}"]
        size = (expected.shape[0], expected.shape[1])
        output = renderer.render_unclamped(renderer.encode(image), size=size)
        found[f"{image.shape[1]}x{image.shape[0]} → {size[1]}x{size[0]}"] = measure(output, expected)
    return found


def check_stored(found: Mapping[str, Difference], tolerance: Tolerance = TOLERANCES["fp32"]) -> None:
    """ParityError where a case differs by more, is not a number, or none is stored."""
    if not found:
        raise ParityError("the bundle stores no reference outputs; verify it with --checkpoint")
    for name, difference in found.items():
        check_difference(f"{name}: the colours", difference, tolerance)
