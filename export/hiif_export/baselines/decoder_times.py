"""Times the PyTorch module and the bundle alternately, encoder and decoder separately."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bench.case import BenchModel, picture
from hiif_deploy.bundle.contract import DecoderContract
from hiif_deploy.geometry.sizes import Size, output_size
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_export.baselines.bench_plain import EagerBaseline

CHUNK = 30_000
"""Queries per call of the PyTorch module where queries are independent: `eval_bsize` of the published evaluations. The
picture is the same, and memory is bounded."""
SUITE = ((7, 5), (16, 24))
"""Source sizes whose outputs are compared."""
WARM: Size = (32, 32)
"""Largest picture that is upscaled to warm up."""


@dataclass(frozen=True)
class Seconds:
    """Seconds of the same work in PyTorch and in the runtime."""

    plain: float
    """Seconds of the PyTorch module."""
    deployed: float
    """Seconds of the bundle in the runtime."""

    def __add__(self, other: Self) -> Self:
        return replace(self, plain=self.plain + other.plain, deployed=self.deployed + other.deployed)


@dataclass(frozen=True)
class TableSetting:
    """Conditions under which every row is measured."""

    source: Size = (256, 256)
    """(height, width) of the timed picture. With coupled queries PyTorch needs about 15 KB per output pixel."""
    scale: float = 4.0
    """Scale factor of the timed and of the counted picture."""
    rounds: int = 1
    """Timed pictures per method, alternating, after a small one to warm up; the medians count."""
    threads: int = 2
    """Processor threads of PyTorch and of the runtime."""
    memory: int = 1280 << 20
    """Working memory of the runtime in bytes; the largest row (CiaoSR around SwinIR, published tiles) needs this
    much."""
    suite: Sequence[tuple[int, int]] = SUITE
    """Source sizes whose outputs are compared, each at every scale of the export's suite."""


@dataclass
class DecoderTimer:
    """Times encoders and decoders, each decoder once per width of features, which alone determines its time."""

    setting: TableSetting
    """Conditions under which they are timed."""
    decoders: dict[tuple[str, int], Seconds] = field(default_factory=dict)
    """(decoder, channels of the features) → seconds measured earlier."""

    def take(self, decoder: str, model: BenchModel) -> tuple[Seconds, Seconds]:
        """Return the seconds of encoding and the seconds of decoding."""
        known, setting = (decoder, model.bundle.contract.encoder.channels), self.setting
        size = output_size(setting.source, scale=setting.scale)
        plain = EagerBaseline(model, setting.threads, queries_per_call(model.bundle.contract.decoder))
        engine, options = (
            EngineOptions(engine="onnxruntime", threads=setting.threads),
            RenderOptions(memory=setting.memory),
        )
        with Upscaler(model.bundle, engine=engine, options=options) as upscaler, torch.inference_mode():
            self._warm_up(plain, upscaler)
            image = picture(setting.source)
            encoding = self._turns([lambda: plain.encode(image), lambda: upscaler.encode(image)])
            if known not in self.decoders:
                maps, features = plain.encode(image), upscaler.encode(image)
                ways = [lambda: plain.render(maps, image, size), lambda: upscaler.render(features, size=size)]
                self.decoders[known] = self._turns(ways)
        return encoding, self.decoders[known]

    def _warm_up(self, plain: EagerBaseline, upscaler: Upscaler) -> None:
        source = (min(WARM[0], self.setting.source[0]), min(WARM[1], self.setting.source[1]))
        size = output_size(source, scale=self.setting.scale)
        plain.upscale(picture(source), size)
        upscaler.upscale(picture(source), size=size)

    def _turns(self, ways: Sequence[Callable[[], Any]]) -> Seconds:
        times = [[_seconds(way) for way in ways] for _ in range(self.setting.rounds)]
        return Seconds(*(statistics.median(column) for column in zip(*times, strict=True)))


def queries_per_call(decoder: DecoderContract) -> int | None:
    """Return how many queries the PyTorch module decodes per call; None for all, where queries are coupled."""
    return None if decoder.statistics_passes else CHUNK


def _seconds(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began
