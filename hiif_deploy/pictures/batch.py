"""Upscales many picture files one after the other, and reports the outcome of each."""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hiif_deploy.decoding.job import Advance
from hiif_deploy.decoding.plan import cached_state_bytes
from hiif_deploy.errors import HiifError, ImageError, OptionError
from hiif_deploy.geometry.target import Larger, Target
from hiif_deploy.images.alpha import fill_under_alpha, upscale_alpha
from hiif_deploy.images.degradation import Degradation, measure
from hiif_deploy.images.io import MAX_PIXELS, Picture, check_stream, check_target, copy_image, read_image, write_image
from hiif_deploy.pictures.deviation import deviation
from hiif_deploy.pictures.items import Item, is_stream
from hiif_deploy.pictures.pace import Pace, measure_pace, probe_size
from hiif_deploy.pictures.suitability import untrained
from hiif_deploy.support.progress import Progress
from hiif_deploy.upscaler import Upscaler

logger = logging.getLogger(__name__)
"""Receives the tracebacks of caught exceptions, for --debug."""
STATUSES = ("done", "skipped", "copied", "failed", "planned")
"""Possible outcomes of a picture."""


@dataclass(frozen=True)
class WriteOptions:
    """How files are read and written."""

    quality: int = 95
    """Quality from 1 to 100, for JPEG and WebP."""
    lossless: bool = False
    """Whether WebP is written without loss."""
    overwrite: bool = False
    """Whether existing outputs are replaced; otherwise they are skipped."""
    max_pixels: int = MAX_PIXELS
    """Inputs of more pixels, or more than `MAX_PIXELS`, are refused before they are decoded."""
    larger: Larger = "error"
    """Handling of a picture that is larger than the requested size."""
    suits_models: bool = False
    """Whether compressed and noisy pictures have the model that was trained on such, in place of the chosen one."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise OptionError(f"quality {self.quality}: expected 1 to 100")


@dataclass(frozen=True)
class Outcome:
    """Outcome of one item, as the report lists it."""

    source: str
    """Path of the input file."""
    target: str
    """Path of the output file."""
    status: Literal["done", "skipped", "copied", "failed", "planned"]
    """`copied`: written unchanged, because it is larger already. `planned`: in a dry run."""
    source_size: tuple[int, int] | None = None
    """(width, height) of the input."""
    target_size: tuple[int, int] | None = None
    """(width, height) of the output."""
    seconds: float | None = None
    """Seconds of encoding and decoding by the model; an estimate in a dry run."""
    megapixels_per_second: float | None = None
    """Output pixels per second of that time."""
    memory_mib: int | None = None
    """Estimated working memory with input, features and output; in a dry run."""
    decoder_calls: int | None = None
    """Number of query blocks of all passes; in a dry run."""
    deviation_db: float | None = None
    """PSNR of this approximate output against the exact one, before rounding; where it was requested."""
    notes: tuple[str, ...] = ()
    """Everything that was changed or lost, one sentence each."""
    model: str | None = None
    """Name of the model that upscaled or would upscale it."""
    fallback_blocks: int = 0
    """Blocks of queries that overflowed in fp16 and were recomputed in fp32."""
    untrained: Degradation | None = None
    """Degradations of the input that this model was not trained for."""
    error: str | None = None
    """Message of the error, where it failed."""
    exit_code: int = 0
    """1 where it failed, 2 where the request is impossible."""


Choose = Callable[[Degradation], Upscaler]
"""What degraded a picture → the model that upscales it."""


def run_batch(
    upscaler: Upscaler, items: Sequence[Item], target: Target, options: WriteOptions, *, show_progress: bool = True,
    exact: Upscaler | None = None, choose: Choose | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Upscale every item; one that fails is reported and the others continue. With `exact` each reports its
    deviation. `choose` returns the model of each picture; without it all have `upscaler`."""

    def make(number: int, item: Item) -> Outcome:
        title = f"[{number}/{len(items)}] {item.source.name}" if len(items) > 1 else item.source.name
        return _make(choose or _always(upscaler), item, target, options, title if show_progress else None, exact)

    return _each(items, options, make)


def plan_batch(
    upscaler: Upscaler, items: Sequence[Item], target: Target, options: WriteOptions, *, choose: Choose | None = None
) -> Iterator[Outcome]:
    """Yield the outcomes that `run_batch` would have, with estimated memory and time; nothing is written."""
    # Timing a small picture takes about a second, so it is done once per model and scale.
    pace = functools.cache(measure_pace)
    return _each(items, options, lambda _, item: _plan(choose or _always(upscaler), item, target, options, pace))


def _always(upscaler: Upscaler) -> Choose:
    return lambda _: upscaler


def _each(items: Sequence[Item], options: WriteOptions, work: Callable[[int, Item], Outcome]) -> Iterator[Outcome]:
    """Call `work` on every item that does not exist yet, numbered from 1; a failure becomes an outcome."""
    for number, item in enumerate(items, 1):
        if item.target.exists() and not options.overwrite and not is_stream(item.target):
            yield Outcome(str(item.source), str(item.target), "skipped", notes=("exists; --overwrite makes it again",))
            continue
        try:
            yield work(number, item)
        except HiifError as error:
            yield Outcome(str(item.source), str(item.target), "failed", error=str(error), exit_code=error.exit_code)
        except Exception as error:
            logger.debug("%s", item.source, exc_info=True)
            # One picture must not end the others, whatever error it causes.
            yield Outcome(str(item.source), str(item.target), "failed", error=_unexpected(item, error), exit_code=1)


def _unexpected(item: Item, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{item.source}: out of memory; a smaller --memory makes smaller tiles"
    return f"{item.source}: unexpected {type(error).__name__}: {error}; please report it"


def upscale_picture(
    upscaler: Upscaler,
    picture: Picture,
    size: tuple[int, int],
    title: str | None = None,
    advance: Advance | None = None,
) -> Picture:
    """Upscale colours by the model and alpha by cubic interpolation; everything else of the picture is kept.

    Progress is shown under `title`, or reported to `advance` as the number of finished steps."""
    steps = upscaler.steps(picture.size, size)
    pixels = picture.pixels if picture.alpha is None else fill_under_alpha(picture.pixels, picture.alpha)
    with Progress(title or "", steps, unit="steps", enabled=title is not None) as progress:
        pixels = upscaler.upscale(pixels, size=size, advance=advance or progress.advance)
    alpha = None if picture.alpha is None else upscale_alpha(picture.alpha, size)
    return replace(picture, pixels=pixels, alpha=alpha)


def _make(
    choose: Choose, item: Item, target: Target, options: WriteOptions, title: str | None, exact: Upscaler | None
) -> Outcome:
    picture = read_image(item.source, max_pixels=min(options.max_pixels, MAX_PIXELS))
    if target.shrinks(picture.size) and options.larger != "error":
        return _larger(item, picture, options)
    size = target.size(picture.size)
    _prepare(item, size)
    found = measure(picture)
    upscaler = choose(found)
    began, fallback_blocks = time.perf_counter(), upscaler.fallback_blocks
    result = upscale_picture(upscaler, picture, size, title)
    seconds, fallback_blocks = time.perf_counter() - began, upscaler.fallback_blocks - fallback_blocks
    lost = write_image(item.target, result, quality=options.quality, lossless=options.lossless, suffix=item.suffix)
    again = (f"{fallback_blocks} blocks overflowed in fp16 and were recomputed in fp32",) if fallback_blocks else ()
    return Outcome(
        str(item.source), str(item.target), "done", picture.size[::-1], size[::-1],
        round(seconds, 4), round(size[0] * size[1] / 1e6 / seconds, 4),
        deviation_db=None if exact is None else round(deviation(upscaler, exact, picture.pixels, size).psnr, 2),
        notes=(*picture.notes, *lost, *again), model=upscaler.contract.name,
        fallback_blocks=fallback_blocks, untrained=untrained(found, upscaler.contract.trained_for),
    )  # fmt: skip


def _larger(item: Item, picture: Picture, options: WriteOptions, *, is_plan: bool = False) -> Outcome:
    """Handle a picture that is larger than the requested size: skip it, or write it unchanged."""
    known = (str(item.source), str(item.target))
    size = picture.size[::-1]
    if options.larger == "skip":
        note = f"{size[0]}x{size[1]} is larger already; --larger copy writes it as it is"
        return Outcome(*known, "skipped", size, notes=(note,))
    if is_plan:
        return Outcome(*known, "planned", size, size, 0.0, memory_mib=0, decoder_calls=0, notes=("is larger: copied",))
    _prepare(item, picture.size)
    if not is_stream(item.source) and item.source.suffix.lower() == (item.suffix or item.target.suffix).lower():
        copy_image(item.source, item.target)
        return Outcome(*known, "copied", size, size)
    lost = write_image(item.target, picture, quality=options.quality, lossless=options.lossless, suffix=item.suffix)
    note = "converted to another format, not upscaled"
    return Outcome(*known, "copied", size, size, notes=(note, *picture.notes, *lost))


def _prepare(item: Item, size: tuple[int, int]) -> None:
    """Create the output's folder, and refuse before the work what could not be written after it."""
    if is_stream(item.target):
        check_stream(item.suffix or item.target.suffix, size)
        return
    try:
        item.target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{item.target.parent}: the folder cannot be created ({error.strerror})") from error
    check_target(item.target, size)


def _plan(
    choose: Choose, item: Item, target: Target, options: WriteOptions,
    pace: Callable[[Upscaler, tuple[int, int]], Pace],
) -> Outcome:  # fmt: skip
    picture = read_image(item.source, max_pixels=min(options.max_pixels, MAX_PIXELS))
    if target.shrinks(picture.size) and options.larger != "error":
        return _larger(item, picture, options, is_plan=True)
    size = target.size(picture.size)
    if item.target.parent.is_dir() and not is_stream(item.target):
        check_target(item.target, size)
    found = measure(picture)
    upscaler = choose(found)
    plan = upscaler.plan(picture.size)
    # `steps` raises what the run would raise: a plan must fail where the run does.
    upscaler.steps(picture.size, size)
    passes = upscaler.contract.decoder.statistics_passes + 1
    seconds = pace(upscaler, probe_size(picture.size, size)).seconds(picture.size, size)
    return Outcome(
        str(item.source), str(item.target), "planned", picture.size[::-1], size[::-1],
        round(seconds, 1), round(size[0] * size[1] / 1e6 / seconds, 4),
        memory_mib=planned_bytes(upscaler, picture, size) >> 20,
        decoder_calls=passes * -(-size[0] * size[1] // plan.query_block), notes=picture.notes,
        model=upscaler.contract.name, untrained=untrained(found, upscaler.contract.trained_for),
    )  # fmt: skip


def planned_bytes(upscaler: Upscaler, picture: Picture, size: tuple[int, int]) -> int:
    """Return the estimated memory of upscaling a picture to `size`, with input, features and output."""
    plan = upscaler.plan(picture.size)
    channels = 1 if picture.pixels.ndim == 2 else 3
    features = 4 * upscaler.contract.encoder.channels + 12
    whole = picture.size[0] * picture.size[1] * features + size[0] * size[1] * channels * picture.pixels.itemsize
    return whole + plan.working_bytes + cached_state_bytes(upscaler.contract, plan, size[0] * size[1])


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 where nothing failed, 2 where only impossible requests failed, 1 otherwise."""
    codes = {outcome.exit_code for outcome in outcomes} - {0}
    return min(codes, default=0)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the number of pictures by status, and the seconds of all."""
    counts = {status: sum(o.status == status for o in outcomes) for status in STATUSES}
    return {**counts, "seconds": round(sum(o.seconds or 0 for o in outcomes), 4)}
