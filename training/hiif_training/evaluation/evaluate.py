"""Evaluates a model on test sets by the published protocol: figures per picture and their means (design/model.md
E1–E7)."""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)

Protocol = Literal["benchmark", "div2k"]
"""`benchmark`: luma, `scale` pixels cropped at the border. `div2k`: RGB, `scale` + 6 pixels cropped."""


@dataclass(frozen=True)
class Figures:
    """Figures of one picture at one scale."""

    name: str
    """Name of the picture's file without its suffix."""
    psnr: float
    """PSNR in dB; infinite for equal pictures."""
    ssim: float | None
    """SSIM in [-1, 1], 1 for equal pictures; None where it was not requested."""
    lpips: float | None
    """Perceptual distance, 0 for equal pictures; None where it was not requested."""
    seconds: float
    """Seconds that the model took."""


@dataclass(frozen=True)
class SetFigures:
    """Figures of one set at one scale."""

    set: str
    """Name of the set's folder."""
    scale: float
    """Scale factor from the small picture to the truth."""
    low: str
    """Origin of the small pictures: `folder`, `matlab` or `pil`."""
    pictures: tuple[Figures, ...]
    """Figures per picture, sorted by name."""

    def mean(self, metric: str) -> float | None:
        """Return the mean of `psnr`, `ssim`, `lpips` or `seconds` over the pictures; None where it was not measured."""
        values = [getattr(picture, metric) for picture in self.pictures]
        return None if None in values else float(np.mean(values))


@dataclass(frozen=True)
class Measure:
    """Metrics and protocol by which an output is compared with the truth."""

    protocol: Protocol = "benchmark"
    """Channels and borders that are compared."""
    with_ssim: bool = True
    """Whether to measure SSIM too."""
    lpips: Lpips | None = None
    """LPIPS network; None leaves LPIPS out."""
    rounded: bool = False
    """Round outputs to 8 bits before comparing."""

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise OptionError(f"--protocol {self.protocol!r}: expected one of {', '.join(get_args(Protocol))}")

    def compare(self, pair: Pair, output: NDArray[np.float32], scale: float, seconds: float) -> Figures:
        """Compare a model's output [H, W, 3] in [0, 1] with the pair's truth."""
        truth = np.asarray(pair.truth / np.float32(255), dtype=np.float32)
        if self.rounded:
            output = np.rint(np.clip(output, 0, 1) * np.float32(255)) / np.float32(255)
        is_luma = self.protocol == "benchmark"
        shave = math.ceil(scale) if is_luma else math.ceil(scale) + 6
        return Figures(
            pair.name,
            (psnr_luma if is_luma else psnr_rgb)(output, truth, shave),
            ssim(output, truth, shave, on_luma=is_luma) if self.with_ssim else None,
            self.lpips(output, truth, shave) if self.lpips else None,
            seconds,
        )


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model over all sets and scales."""

    model: str
    """Name of the evaluated model."""
    engine: str
    """Description of the engine that ran the model."""
    spec: Mapping[str, Any]
    """`{name, args}`; empty for bicubic."""
    results: tuple[SetFigures, ...]
    """By scale, then by set."""
    crops: tuple[SheetRow, ...] = ()
    """One row per picture and scale for a sheet; empty where none is requested."""
    fixed_scale: int | None = None
    """The only factor that the model upscales by; None where it takes any."""


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
    """Evaluate a model, named as for `open_evaluator`; `advance` is called with the number of pictures done.

    A fixed-scale model is measured at its own scale; OptionError where that is not among `scales`.
    """
    results: list[SetFigures] = []
    crops: list[SheetRow] = []
    for scale in scales:
        with open_evaluator(model, scale, options) as evaluator:
            if evaluator.fixed_scale not in (None, scale):
                logger.info("%s upscales ×%d only: not measured at ×%g", model, evaluator.fixed_scale, scale)
                advance(sum(len(pictures.paths) for pictures in sets))
                continue
            for pictures in sets:
                figures, sources = [], set()
                for pair in pictures.pairs(scale):
                    output, seconds = _timed(evaluator, pair)
                    figures.append(measure.compare(pair, output, scale, seconds))
                    sources.add(pair.source)
                    crops += [sheet_row(pair, output, scale)] if with_crops else []
                    advance(1)
                results.append(SetFigures(pictures.name, scale, "/".join(sorted(sources)), tuple(figures)))
    if not results:
        raise OptionError(f"{model} upscales ×{evaluator.fixed_scale} only, and --scales leaves that out")
    described = (evaluator.name, evaluator.engine, evaluator.spec)
    return Evaluation(*described, tuple(results), tuple(crops), evaluator.fixed_scale)


def _timed(evaluator: Evaluator, pair: Pair) -> tuple[NDArray[np.float32], float]:
    began = time.perf_counter()
    output = evaluator.upscale(pair.low, (pair.truth.shape[0], pair.truth.shape[1]))
    return output, time.perf_counter() - began


def parse_scales(text: str) -> list[float]:
    """Parse `2,3,4` into numbers of at least 1; OptionError for any other text."""
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if not scales or not all(math.isfinite(scale) and scale >= 1 for scale in scales):
        raise OptionError(f"--scales {text!r}: expected numbers of at least 1, for example 2,3,4,6,8")
    return scales


def as_json(found: Sequence[SetFigures]) -> list[dict[str, Any]]:
    """Return all figures as JSON data, the means before the single pictures."""
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
