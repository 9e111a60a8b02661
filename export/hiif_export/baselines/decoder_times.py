"""Times the PyTorch module and the bundle alternately, encoder and decoder separately."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bench.case import BenchModel, picture
from hiif_deploy.bundle.contract import DecoderContract
from hiif_deploy.geometry.sizes import Scale, Size, output_size
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_export.baselines.bench_plain import EagerBaseline

CHUNK = 30_000
"""Queries per call of the PyTorch module where queries are independent: `eval_bsize` of the published evaluations. The
picture is the same, and memory is bounded."""
WARM: Size = (32, 32)
"""Largest picture that is upscaled to warm up."""


@dataclass(frozen=True)
class Seconds:
    """Seconds of the same work in PyTorch and in the runtime."""

    plain: float
    """Seconds of the PyTorch module."""
    deployed: float
    """Seconds of the bundle in the runtime."""

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.plain + other.plain, self.deployed + other.deployed)


@dataclass
class DecoderTimer:
    """Times encoders and decoders, each decoder once per width of features, which alone determines its time."""

    source: Size
    """(height, width) of the picture that is timed."""
    scale: Scale
    """Scale factor of the timed picture."""
    rounds: int
    """Number of alternating measurements; the medians count."""
    threads: int
    """Processor threads of PyTorch and of the runtime."""
    memory: int
    """Working memory of the runtime in bytes."""
    decoders: dict[tuple[str, int], Seconds] = field(default_factory=dict)
    """(decoder, channels of the features) → seconds measured earlier."""

    def take(self, decoder: str, model: BenchModel) -> tuple[Seconds, Seconds]:
        """Return the seconds of encoding and the seconds of decoding."""
        known = decoder, model.bundle.contract.encoder.channels
        size = output_size(self.source, scale=self.scale)
        plain = EagerBaseline(model, self.threads, queries_per_call(model.bundle.contract.decoder))
        engine, options = EngineOptions(threads=self.threads), RenderOptions(memory=self.memory)
        with Upscaler(model.bundle, engine=engine, options=options) as upscaler, torch.inference_mode():
            self._warm_up(plain, upscaler)
            image = picture(self.source)
            encoding = self._turns([lambda: plain.encode(image), lambda: upscaler.encode(image)])
            if known not in self.decoders:
                maps, features = plain.encode(image), upscaler.encode(image)
                ways = [lambda: plain.render(maps, image, size), lambda: upscaler.render(features, size=size)]
                self.decoders[known] = self._turns(ways)
        return encoding, self.decoders[known]

    def _warm_up(self, plain: EagerBaseline, upscaler: Upscaler) -> None:
        source = (min(WARM[0], self.source[0]), min(WARM[1], self.source[1]))
        size = output_size(source, scale=self.scale)
        plain.upscale(picture(source), size)
        upscaler.upscale(picture(source), size=size)

    def _turns(self, ways: Sequence[Callable[[], Any]]) -> Seconds:
        times = [[_seconds(way) for way in ways] for _ in range(self.rounds)]
        return Seconds(*(statistics.median(column) for column in zip(*times, strict=True)))


def queries_per_call(decoder: DecoderContract) -> int | None:
    """Return how many queries the PyTorch module decodes per call; None for all, where queries are coupled."""
    return None if decoder.statistics_passes else CHUNK


def _seconds(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began
