"""Seconds of the plain module and of the bundle, in turns, encoder and decoder by themselves."""

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
from hiif_export.baselines.bench_plain import Plain

CHUNK = 30_000
"""Queries per call of the plain module where they do not depend on each other: `eval_bsize` of the published
evaluations. The picture is the same, and memory is bounded."""
WARM: Size = (32, 32)
"""Largest picture that either way enlarges before its time is taken."""


@dataclass(frozen=True)
class Seconds:
    """Of the same work in either way."""

    plain: float
    """PyTorch's."""
    deployed: float
    """The bundle's."""

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.plain + other.plain, self.deployed + other.deployed)


@dataclass
class Stopwatch:
    """Takes times, those of a decoder once: they do not depend on the encoder, only on the width of its features."""

    source: Size
    """(height, width) of the picture that is timed."""
    scale: Scale
    """Of that picture."""
    rounds: int
    """Times in turns; the medians count."""
    threads: int
    """Of either way."""
    memory: int
    """Bytes of working memory, of the bundle."""
    decoders: dict[tuple[str, int], Seconds] = field(default_factory=dict)
    """Decoder and channels → what was measured before."""

    def take(self, decoder: str, model: BenchModel) -> tuple[Seconds, Seconds]:
        """Of encoding, of decoding."""
        known = decoder, model.bundle.contract.encoder.channels
        size = output_size(self.source, scale=self.scale)
        plain = Plain(model, self.threads, queries_per_call(model.bundle.contract.decoder))
        engine, options = EngineOptions(threads=self.threads), RenderOptions(memory=self.memory)
        with Upscaler(model.bundle, engine=engine, options=options) as upscaler, torch.inference_mode():
            self._warm_up(plain, upscaler)
            image = picture(self.source)
            encoding = self._turns([lambda: plain.encode(image), lambda: upscaler.encode(image)])
            if known not in self.decoders:
                maps, features = plain.encode(image), upscaler.encode(image)
                ways = [lambda: plain.render(*maps, image, size), lambda: upscaler.render(features, size=size)]
                self.decoders[known] = self._turns(ways)
        return encoding, self.decoders[known]

    def _warm_up(self, plain: Plain, upscaler: Upscaler) -> None:
        source = (min(WARM[0], self.source[0]), min(WARM[1], self.source[1]))
        size = output_size(source, scale=self.scale)
        plain.upscale(picture(source), size)
        upscaler.upscale(picture(source), size=size)

    def _turns(self, ways: Sequence[Callable[[], Any]]) -> Seconds:
        times = [[_seconds(way) for way in ways] for _ in range(self.rounds)]
        return Seconds(*(statistics.median(column) for column in zip(*times, strict=True)))


def queries_per_call(decoder: DecoderContract) -> int | None:
    """Of the plain module; None: all."""
    return None if decoder.statistics_passes else CHUNK


def _seconds(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began
