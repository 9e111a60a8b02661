"""How long pictures take on this machine, from one small picture."""

import time
from dataclasses import dataclass

import numpy as np

from hiif_deploy.upscaler import Upscaler

PROBE = 48
"""Side in pixels of the picture that is timed for an estimate."""


@dataclass(frozen=True)
class Pace:
    """Measured speed of a model on this machine."""

    per_source_pixel: float
    """Seconds of the encoder per source pixel."""
    per_query: float
    """Seconds of all passes of the decoder per query."""

    def seconds(self, source: tuple[int, int], target: tuple[int, int]) -> float:
        """Return the estimated seconds for a picture."""
        return self.per_source_pixel * source[0] * source[1] + self.per_query * target[0] * target[1]


def probe_size(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the output size of the small picture that is timed in place of this one: the same scale, at most 4."""
    scales = (max(1.0, after / before) for before, after in zip(source, target, strict=True))
    height, width = (min(round(PROBE * scale), 4 * PROBE) for scale in scales)
    return height, width


def measure_pace(upscaler: Upscaler, size: tuple[int, int]) -> Pace:
    """Time a small picture upscaled to `size`, after a warm-up."""
    small = np.random.default_rng(0).random((PROBE, PROBE, 3)).astype(np.float32)
    upscaler.upscale(small, size=size)
    began = time.perf_counter()
    features = upscaler.encode(small)
    encoded = time.perf_counter()
    upscaler.render(features, size=size)
    decoded = time.perf_counter()
    return Pace((encoded - began) / PROBE**2, (decoded - encoded) / (size[0] * size[1]))
