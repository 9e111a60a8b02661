"""A model over test sets, by the published protocol: figures per picture and their means (design/model.md E1–E7)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import OptionError
from hiif_training.evaluation.evaluators import Evaluator, open_evaluator
from hiif_training.evaluation.lpips_metric import Lpips
from hiif_training.evaluation.metrics import psnr_luma, psnr_rgb, ssim
from hiif_training.evaluation.options import EvaluatorOptions
from hiif_training.evaluation.sheet import SheetRow, sheet_row
from hiif_training.pictures.picture_sets import Pair, PictureSet

Protocol = Literal["benchmark", "div2k"]
"""`benchmark`: luma, `scale` pixels left out at the border. `div2k`: colours, `scale` + 6 pixels left out."""


@dataclass(frozen=True)
class Figures:
    """One picture at one scale."""

    name: str
    """Of the picture."""
    psnr: float
    """In dB; infinite for equal pictures."""
    ssim: float | None
    """In [-1, 1], 1 for equal pictures."""
    lpips: float | None
    """Perceptual distance, 0 for equal pictures; None where it was not asked for."""
    seconds: float
    """The model's time."""


@dataclass(frozen=True)
class SetFigures:
    """One set at one scale."""

    set: str
    """Name of its folder."""
    scale: float
    """How much larger the truth is."""
    low: str
    """Where the small pictures are from: `folder`, `matlab` or `pil`."""
    pictures: tuple[Figures, ...]
    """In the order of their names."""

    def mean(self, metric: str) -> float | None:
        """Mean over the pictures of `psnr`, `ssim`, `lpips` or `seconds`; None where it was not measured."""
        values = [getattr(picture, metric) for picture in self.pictures]
        return None if None in values else float(np.mean(values))


@dataclass(frozen=True)
class Measure:
    """How a prediction is compared with the truth."""

    protocol: Protocol = "benchmark"
    """What is compared."""
    with_ssim: bool = True
    """Measure SSIM too."""
    lpips: Lpips | None = None
    """Measure LPIPS too."""
    rounded: bool = False
    """Round answers to 8 bits first."""

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise OptionError(f"--protocol {self.protocol!r}: expected one of {', '.join(get_args(Protocol))}")

    def compare(self, pair: Pair, answer: NDArray[np.float32], scale: float, seconds: float) -> Figures:
        """Figures of one answer."""
        truth = np.asarray(pair.truth / np.float32(255), dtype=np.float32)
        if self.rounded:
            answer = np.rint(np.clip(answer, 0, 1) * np.float32(255)) / np.float32(255)
        is_luma = self.protocol == "benchmark"
        shave = math.ceil(scale) if is_luma else math.ceil(scale) + 6
        return Figures(
            pair.name,
            (psnr_luma if is_luma else psnr_rgb)(answer, truth, shave),
            ssim(answer, truth, shave, on_luma=is_luma) if self.with_ssim else None,
            self.lpips(answer, truth, shave) if self.lpips else None,
            seconds,
        )


@dataclass(frozen=True)
class Evaluation:
    """A model over all sets and scales."""

    model: str
    """Its name."""
    engine: str
    """What ran it."""
    spec: Mapping[str, Any]
    """`{name, args}`; empty for bicubic."""
    results: tuple[SetFigures, ...]
    """By scale, then by set."""
    crops: tuple[SheetRow, ...]
    """For a sheet, one row per picture and scale; empty where none is wanted."""


def evaluate(
    model: str,
    sets: Sequence[PictureSet],
    scales: Sequence[float],
    measure: Measure,
    options: EvaluatorOptions,
    *,
    with_crops: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measure a model, named as for `open_evaluator`; `advance(1)` is told of every picture."""
    results: list[SetFigures] = []
    crops: list[SheetRow] = []
    for scale in scales:
        with open_evaluator(model, scale, options) as evaluator:
            for pictures in sets:
                figures, sources = [], set()
                for pair in pictures.pairs(scale):
                    answer, seconds = _timed(evaluator, pair)
                    figures.append(measure.compare(pair, answer, scale, seconds))
                    sources.add(pair.source)
                    crops += [sheet_row(pair, answer, scale)] if with_crops else []
                    advance(1)
                results.append(SetFigures(pictures.name, scale, "/".join(sorted(sources)), tuple(figures)))
    return Evaluation(evaluator.name, evaluator.engine, evaluator.spec, tuple(results), tuple(crops))


def _timed(evaluator: Evaluator, pair: Pair) -> tuple[NDArray[np.float32], float]:
    began = time.perf_counter()
    answer = evaluator.enlarge(pair.low, (pair.truth.shape[0], pair.truth.shape[1]))
    return answer, time.perf_counter() - began


def parse_scales(text: str) -> list[float]:
    """`2,3,4` → numbers above 1; OptionError otherwise."""
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if not scales or not all(math.isfinite(scale) and scale >= 1 for scale in scales):
        raise OptionError(f"--scales {text!r}: expected numbers of at least 1, for example 2,3,4,6,8")
    return scales


def as_json(found: Sequence[SetFigures]) -> list[dict[str, Any]]:
    """All figures, means first."""
    metrics = ("psnr", "ssim", "lpips", "seconds")
    return [
        {
            "set": part.set,
            "scale": part.scale,
            "low": part.low,
            "mean": {metric: part.mean(metric) for metric in metrics},
            "pictures": [{"name": p.name, **{m: getattr(p, m) for m in metrics}} for p in part.pictures],
        }
        for part in found
    ]
