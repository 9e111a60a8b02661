"""Many picture files: which become which, and one after the other through an upscaler."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hiif_deploy.alpha import fill_under_alpha, upscale_alpha
from hiif_deploy.deviation import deviation
from hiif_deploy.errors import HiifError, ImageError, OptionError
from hiif_deploy.images import MAX_PIXELS, SUFFIXES, Picture, check_target, read_image, write_image
from hiif_deploy.plan import carried_bytes
from hiif_deploy.progress import Progress
from hiif_deploy.target import Target
from hiif_deploy.upscaler import Upscaler

PROBE = 48
"""Pixels of the sides of the picture that is timed for an estimate."""


@dataclass(frozen=True)
class Item:
    """One picture to make."""

    source: Path
    """To read."""
    target: Path
    """To write."""


@dataclass(frozen=True)
class WriteOptions:
    """How files are read and written."""

    quality: int = 95
    """1 to 100, for JPEG and WebP."""
    lossless: bool = False
    """For WebP."""
    overwrite: bool = False
    """Whether existing outputs are made again; otherwise they are skipped."""
    max_pixels: int = MAX_PIXELS
    """Inputs of more pixels are refused before they are decoded."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise OptionError(f"quality {self.quality}: expected 1 to 100")


@dataclass(frozen=True)
class Outcome:
    """What became of one item."""

    source: str
    """Input path."""
    target: str
    """Output path."""
    status: Literal["done", "skipped", "failed", "planned"]
    """`planned` in a dry run."""
    source_size: tuple[int, int] | None = None
    """(width, height) of the input."""
    target_size: tuple[int, int] | None = None
    """(width, height) of the output."""
    seconds: float | None = None
    """For encoding and decoding by the model; in a dry run an estimate."""
    megapixels_per_second: float | None = None
    """Output pixels per second of that time."""
    memory_mib: int | None = None
    """Estimated working memory with input, features and output; in a dry run."""
    decoder_calls: int | None = None
    """Query blocks of all passes; in a dry run."""
    deviation_db: float | None = None
    """PSNR between this approximate answer and the exact one, before rounding; where it was asked for."""
    notes: tuple[str, ...] = ()
    """What was changed or lost on the way, one sentence each."""
    error: str | None = None
    """Why it failed."""
    exit_code: int = 0
    """1 where it failed, 2 where what was asked cannot be done."""


def list_items(inputs: Sequence[Path], output: Path | None, label: str, suffix: str | None = None) -> list[Item]:
    """Pair inputs with outputs. Folders are searched recursively, their structure is kept below `output`.

    Without `output` the result lies beside its input, `photo_x3.3.jpg`, and is not taken for an input itself.
    OptionError where two inputs would give one output or an input would be overwritten; ImageError where a folder
    holds no pictures.
    """
    wanted = None if suffix is None else "." + suffix.lower().lstrip(".")
    as_file = output is not None and len(inputs) == 1 and not inputs[0].is_dir() and _names_file(output)
    items = []
    for root in inputs:
        for source in _pictures(root, output):
            end = wanted or source.suffix
            if as_file and output is not None:
                target = output
            elif output is not None:
                inner = source.relative_to(root) if root.is_dir() else Path(source.name)
                target = output / inner.with_suffix(end)
            else:
                target = source.with_name(f"{source.stem}_{label}{end}")
            items.append(Item(source, target))
    # A second run over a folder must not enlarge what the first one made there.
    made = {item.target for item in items if item.target != item.source}
    items = [item for item in items if item.source not in made]
    check_pairs(items)
    return items


def run_batch(
    upscaler: Upscaler, items: Sequence[Item], target: Target, options: WriteOptions, *, show_progress: bool = True,
    exact: Upscaler | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Make every item; one that fails is reported and the others go on. With `exact` each tells its deviation."""

    def make(number: int, item: Item) -> Outcome:
        title = f"[{number}/{len(items)}] {item.source.name}" if len(items) > 1 else item.source.name
        return _make(upscaler, item, target, options, title if show_progress else None, exact)

    return _each(items, options, make)


def plan_batch(upscaler: Upscaler, items: Sequence[Item], target: Target, options: WriteOptions) -> Iterator[Outcome]:
    """What `run_batch` would do, with memory and time estimated; nothing is written."""
    # Timing a small picture takes a second or so: once per scale is enough.
    pace = functools.cache(functools.partial(measure_pace, upscaler))
    return _each(items, options, lambda _, item: _plan(upscaler, item, target, options, pace))


def _each(items: Sequence[Item], options: WriteOptions, work: Callable[[int, Item], Outcome]) -> Iterator[Outcome]:
    """`work` on every item, numbered from 1, that is not there already; a failure becomes an outcome."""
    for number, item in enumerate(items, 1):
        if item.target.exists() and not options.overwrite:
            yield Outcome(str(item.source), str(item.target), "skipped", notes=("exists; --overwrite makes it again",))
            continue
        try:
            yield work(number, item)
        except HiifError as error:
            yield Outcome(str(item.source), str(item.target), "failed", error=str(error), exit_code=error.exit_code)
        except Exception as error:
            # One picture must not take the others with it, whatever happened to it.
            yield Outcome(str(item.source), str(item.target), "failed", error=_unexpected(item, error), exit_code=1)


def _unexpected(item: Item, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{item.source}: out of memory ({error}); a smaller --memory makes smaller tiles"
    return f"{item.source}: unexpected {type(error).__name__}: {error}; please report it"


def upscale_picture(upscaler: Upscaler, picture: Picture, size: tuple[int, int], title: str | None = None) -> Picture:
    """Colours by the model, alpha by cubic interpolation, everything else of the picture kept."""
    steps = upscaler.steps(picture.size, size)
    pixels = picture.pixels if picture.alpha is None else fill_under_alpha(picture.pixels, picture.alpha)
    with Progress(title or "", steps, unit="steps", enabled=title is not None) as progress:
        pixels = upscaler.upscale(pixels, size=size, advance=progress.advance)
    alpha = None if picture.alpha is None else upscale_alpha(picture.alpha, size)
    return replace(picture, pixels=pixels, alpha=alpha)


def _make(
    upscaler: Upscaler, item: Item, target: Target, options: WriteOptions, title: str | None, exact: Upscaler | None
) -> Outcome:
    picture = read_image(item.source, max_pixels=options.max_pixels)
    size = target.size(picture.size)
    item.target.parent.mkdir(parents=True, exist_ok=True)
    check_target(item.target, size)
    began, rescued = time.perf_counter(), upscaler.rescued
    result = upscale_picture(upscaler, picture, size, title)
    seconds, rescued = time.perf_counter() - began, upscaler.rescued - rescued
    lost = write_image(item.target, result, quality=options.quality, lossless=options.lossless)
    again = (f"{rescued} blocks were no numbers in half precision and were decoded again in fp32",) if rescued else ()
    return Outcome(
        str(item.source), str(item.target), "done", _across_down(picture.size), _across_down(size),
        round(seconds, 4), round(size[0] * size[1] / 1e6 / seconds, 4),
        deviation_db=None if exact is None else round(deviation(upscaler, exact, picture.pixels, size).psnr, 2),
        notes=(*picture.notes, *lost, *again),
    )  # fmt: skip


def _plan(
    upscaler: Upscaler, item: Item, target: Target, options: WriteOptions, pace: Callable[[tuple[int, int]], Pace]
) -> Outcome:
    picture = read_image(item.source, max_pixels=options.max_pixels)
    size = target.size(picture.size)
    if item.target.parent.is_dir():
        check_target(item.target, size)
    plan = upscaler.plan(picture.size)
    # For its refusals: a plan must fail where the run would.
    upscaler.steps(picture.size, size)
    channels = 1 if picture.pixels.ndim == 2 else 3
    features = 4 * upscaler.contract.encoder.channels + 12
    whole = picture.size[0] * picture.size[1] * features + size[0] * size[1] * channels * picture.pixels.itemsize
    passes = upscaler.contract.decoder.statistics_passes + 1
    seconds = pace(probe_size(picture.size, size)).seconds(picture.size, size)
    return Outcome(
        str(item.source), str(item.target), "planned", _across_down(picture.size), _across_down(size),
        round(seconds, 1), round(size[0] * size[1] / 1e6 / seconds, 4),
        memory_mib=(whole + plan.working_bytes + carried_bytes(upscaler.contract, plan, size[0] * size[1])) >> 20,
        decoder_calls=passes * -(-size[0] * size[1] // plan.query_block), notes=picture.notes,
    )  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """How fast a model is on this machine."""

    per_source_pixel: float
    """Seconds of the encoder."""
    per_query: float
    """Seconds of all passes of the decoder."""

    def seconds(self, source: tuple[int, int], target: tuple[int, int]) -> float:
        """Estimate for a picture."""
        return self.per_source_pixel * source[0] * source[1] + self.per_query * target[0] * target[1]


def probe_size(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Output size of the small picture that stands for this one: the same scale, at most 4."""
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


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 where nothing failed, 2 where only impossible things were asked, 1 otherwise."""
    codes = {outcome.exit_code for outcome in outcomes} - {0}
    return min(codes, default=0)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts by status and the time of all."""
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed", "planned")}
    return {**counts, "seconds": round(sum(o.seconds or 0 for o in outcomes), 4)}


def _pictures(root: Path, output: Path | None) -> list[Path]:
    if not root.is_dir():
        return [root]
    inside = output.resolve() if output is not None else None
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and (inside is None or inside not in path.resolve().parents)
    )
    if not found:
        raise ImageError(f"{root}: no pictures in this folder; expected files ending in {', '.join(SUFFIXES)}")
    return found


def _names_file(output: Path) -> bool:
    return output.suffix.lower() in SUFFIXES and not output.is_dir()


def check_pairs(items: Sequence[Item]) -> None:
    """OptionError where two inputs would give one output, or an input would be overwritten."""
    made: dict[Path, Path] = {}
    for item in items:
        target = item.target.resolve()
        if target == item.source.resolve():
            raise OptionError(f"{item.source}: the output would replace the input; choose another output (-o)")
        if target in made:
            raise OptionError(f"{made[target]} and {item.source} would both become {item.target}; run them separately")
        made[target] = item.source


def _across_down(size: tuple[int, int]) -> tuple[int, int]:
    return size[1], size[0]
