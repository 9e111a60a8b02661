"""The runtime's sub-commands: upscale, info, doctor, demo, tune. What is heavy is imported when one runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiif_deploy.backends.choice import library_engine
from hiif_deploy.bundle.loader import DEFAULT_MODEL, PHOTO_MODEL, VIDEO_MODEL
from hiif_deploy.cli import options as shared
from hiif_deploy.cli import picture_options as picture
from hiif_deploy.cli import video_options as video
from hiif_deploy.cli.options import engine_options, given_options, in_panel, refuse_options
from hiif_deploy.errors import OptionError
from hiif_deploy.geometry.target import Target, parse_target
from hiif_deploy.support.messages import json_text
from hiif_deploy.video.task import SEGMENT_FRAMES

if TYPE_CHECKING:
    from hiif_deploy.cluster.pool import Pool
    from hiif_deploy.pictures import batch
    from hiif_deploy.pictures import items as batch_items
    from hiif_deploy.upscaler import Upscaler
    from hiif_deploy.video.options import VideoOptions

    Work = Callable[[Upscaler, Pool | None], Iterable[batch.Outcome]]
    """Upscales the pictures, on the cluster where there is one."""

logger = logging.getLogger(__name__)

LOSSY = (".jpg", ".jpeg", ".webp")
"""Suffixes of pictures that have a quality."""
UpscaleBundleOption = Annotated[
    str,
    in_panel(shared.MODEL)(
        "Bundle folder, or name of a model.",
        "--bundle",
        "-b",
        show_default=f"{DEFAULT_MODEL}, {PHOTO_MODEL} for compressed and noisy pictures, {VIDEO_MODEL} for videos",
    ),
]


def upscale(
    context: typer.Context,
    inputs: picture.InputsArgument,
    output: picture.OutputOption = None,
    scale: picture.ScaleOption = None,
    size: picture.SizeOption = None,
    width: picture.WidthOption = None,
    height: picture.HeightOption = None,
    max_side: picture.MaxSideOption = None,
    larger: picture.LargerOption = None,
    bundle: UpscaleBundleOption = DEFAULT_MODEL,
    format_: picture.FormatOption = None,
    quality: picture.QualityOption = 95,
    lossless: picture.LosslessOption = False,
    overwrite: picture.OverwriteOption = False,
    max_pixels: picture.MaxPixelsOption = 1 << 30,
    memory: shared.MemoryOption = 1024,
    threads: shared.ThreadsOption = 0,
    engine: shared.EngineOption = None,
    provider: shared.ProviderOption = None,
    precision: shared.PrecisionOption = None,
    library: shared.LibraryOption = None,
    device: shared.DeviceOption = None,
    isa: shared.IsaOption = None,
    statistics: picture.StatisticsOption = "exact",
    report_deviation: picture.DeviationOption = False,
    published_rows: picture.PublishedOption = None,
    codec: video.CodecOption = None,
    crf: video.CrfOption = None,
    preset: video.PresetOption = None,
    pixel_format: video.PixelFormatOption = None,
    encoder_option: video.EncoderOption = None,
    frames: video.FramesOption = None,
    from_: video.FromOption = None,
    to: video.ToOption = None,
    on_error: video.OnErrorOption = "stop",
    segment_frames: video.SegmentOption = SEGMENT_FRAMES,
    restart: video.RestartOption = False,
    json_progress: video.JsonProgressOption = False,
    ray: shared.RayOption = None,
    workers: shared.WorkersOption = 0,
    dry_run: picture.DryRunOption = False,
    as_json: shared.JsonOption = False,
    quiet: shared.QuietOption = False,
) -> None:
    """Upscale pictures and videos by any factor or to any size.

    \b
    hiif-deploy upscale photo.jpg --scale 3.3
    hiif-deploy upscale holidays/ -o large/ --max-side 4000
    """
    from hiif_deploy.pictures.batch import WriteOptions
    from hiif_deploy.pictures.items import usual_larger
    from hiif_deploy.upscaler import RenderOptions, Upscaler
    from hiif_deploy.video.command import are_videos
    from hiif_deploy.video.options import VideoOptions
    from hiif_deploy.video.plan import parse_frames, parse_time

    target = parse_target(scale, size, width, height, max_side)
    video.refuse_misplaced(context, is_video=(is_video := are_videos(inputs)))
    options = RenderOptions(
        memory=memory << 20, max_output_pixels=max_pixels, group_rows=published_rows,
        clip_cell=published_rows is not None, statistics="exact" if statistics == "reuse" else statistics,
    )  # fmt: skip
    chosen = engine_options(engine, precision, threads, provider=provider, library=library, device=device, isa=isa)
    if is_video:
        times = parse_time("--from", from_), parse_time("--to", to)
        wanted = VideoOptions(
            codec, crf, preset, pixel_format, video.parse_encoder_options(encoder_option), parse_frames(frames), times,
            on_error, "reuse" if statistics == "reuse" else "exact", segment_frames, restart,
        )  # fmt: skip
        style = "json" if json_progress else "none" if quiet else None
        work = _videos(inputs, output, target, wanted, overwrite=overwrite, dry_run=dry_run, style=style)
    else:
        kind, suits_models = larger or usual_larger(inputs), _suits_models(context)
        write = WriteOptions(quality, lossless, overwrite, max_pixels, kind, suits_models)
        items = _items(context, inputs, output, target, format_)
        work = _pictures(items, target, write, dry_run=dry_run, quiet=quiet, report_deviation=report_deviation)
    upscaler = Upscaler(_model(context, bundle, is_video), engine=chosen, options=options)
    _run(upscaler, work, ray, workers, as_json=as_json, dry_run=dry_run)


def _run(opened: Upscaler, work: Work, ray: str | None, workers: int, *, as_json: bool, dry_run: bool) -> None:
    """Open the cluster where there is one, do the work, report it, and close the model."""
    from hiif_deploy.cli import report
    from hiif_deploy.cluster.pool import open_pool
    from hiif_deploy.pictures import batch

    outcomes = []
    if opened.options.statistics != "exact" and not opened.contract.decoder.statistics_passes:
        logger.info("%s computes no statistics: --statistics changes nothing", opened.contract.name)
    with opened as upscaler, open_pool(ray, workers, upscaler, is_plan=dry_run) as pool:
        for outcome in work(upscaler, pool):
            outcomes.append(outcome)
            report.log_outcome(outcome, is_plan=dry_run)
        report.report_batch(upscaler, outcomes, as_json=as_json, is_plan=dry_run)
    if code := batch.exit_code(outcomes):
        raise typer.Exit(code)


def _videos(
    inputs: list[Path], output: Path | None, target: Target, options: VideoOptions, *, overwrite: bool, dry_run: bool,
    style: str | None,
) -> Work:  # fmt: skip
    from hiif_deploy.cluster.segments import make_segments_on
    from hiif_deploy.video.command import list_videos, run_videos

    videos = list_videos(inputs, output, target.label)

    def work(upscaler: Upscaler, pool: Pool | None) -> Iterable[batch.Outcome]:
        make = None if pool is None else partial(make_segments_on, pool)
        return run_videos(
            upscaler, videos, target, options, overwrite=overwrite, dry_run=dry_run, style=style, make=make
        )

    return work


def _pictures(
    items: list[batch_items.Item], target: Target, write: batch.WriteOptions, *, dry_run: bool, quiet: bool,
    report_deviation: bool,
) -> Work:  # fmt: skip
    from hiif_deploy.cluster.pictures import run_batch_on
    from hiif_deploy.pictures import batch
    from hiif_deploy.pictures.deviation import exact_reference
    from hiif_deploy.pictures.suited import SuitedModels

    def work(upscaler: Upscaler, pool: Pool | None) -> Iterable[batch.Outcome]:
        if pool is not None and not dry_run:
            yield from run_batch_on(pool, items, target, write, show_progress=not quiet)
            return
        with (
            exact_reference(upscaler) if report_deviation else contextlib.nullcontext() as exact,
            SuitedModels(upscaler) as models,
        ):
            choose = models.choose if write.suits_models else None
            if dry_run:
                yield from batch.plan_batch(upscaler, items, target, write, choose=choose)
            else:
                yield from batch.run_batch(
                    upscaler, items, target, write, show_progress=not quiet, exact=exact, choose=choose
                )
        if models.failure is not None:
            logger.warning("compressed and noisy pictures had %s: %s", upscaler.contract.name, models.failure)

    return work


def _model(context: typer.Context, bundle: str, is_video: bool) -> str:
    """The bundle; for a video the model for moving pictures where none was named, which is logged."""
    if not is_video or given_options(context, ["bundle"]):
        return bundle
    logger.info("model: %s, for moving pictures; --bundle takes another", VIDEO_MODEL)
    return VIDEO_MODEL


def _suits_models(context: typer.Context) -> bool:
    """Whether compressed and noisy pictures have a model of their own: not where the user named one, nor where one is
    measured."""
    is_chosen = bool(given_options(context, ["bundle"]))
    if not is_chosen and context.params["report_deviation"]:
        logger.info("--report-deviation compares %s alone, so every picture has it", DEFAULT_MODEL)
    return not is_chosen and not context.params["report_deviation"]


def _items(
    context: typer.Context, inputs: list[Path], output: Path | None, target: Target, suffix: str | None
) -> list[batch_items.Item]:
    """Pictures and their outputs. OptionError for options that none can follow; videos in folders are reported."""
    from hiif_deploy.pictures import items as batch_items

    items = batch_items.list_items(inputs, output, target.label, suffix)
    made = {(item.suffix or item.target.suffix).lower() for item in items}
    if made.isdisjoint(LOSSY):
        refuse_options(context, ["quality"], f"for {', '.join(LOSSY)}, and no output is one; leave it out")
    if ".webp" not in made:
        refuse_options(context, ["lossless"], "for WebP, and no output is one; leave it out, or add --format webp")
    if context.params["scale"] is not None:
        refuse_options(context, ["larger"], "for sizes in pixels; a scale suits every picture")
    if any(batch_items.is_stream(path) for item in items for path in (item.source, item.target)):
        refuse_options(context, ["ray"], "for picture files, not the standard input or output")
    if any(batch_items.is_stream(item.target) for item in items) and not context.params["dry_run"]:
        refuse_options(context, ["as_json"], "for reports on stdout, where the picture goes; name a file (-o)")
    if videos := batch_items.left_out(inputs):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in videos.items())
        logger.warning("left out of the folders, being videos or unreadable: %s; name them one by one", kinds)
    return items


def info(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or name of a model.")] = DEFAULT_MODEL,
    as_json: shared.JsonOption = False,
) -> None:
    """Show what a bundle holds and promises, after checking all of it."""
    from hiif_deploy.bundle.loader import open_bundle
    from hiif_deploy.cli import report

    opened = open_bundle(bundle)
    if as_json:
        print(json_text(report.bundle_facts(opened)))
    else:
        report.show(report.bundle_table(opened))


def show_doctor(as_json: shared.JsonOption = False) -> None:
    """Show versions, engines and shipped models, and the command that adds what is missing."""
    from hiif_deploy.cli import doctor, report

    findings = doctor.examine()
    if as_json:
        print(json_text([asdict(finding) for finding in findings]))
    else:
        for title, is_optional in (("required", False), ("optional", True)):
            rows = [finding for finding in findings if finding.is_optional == is_optional]
            report.show(report.findings_table(rows, title))
        print(doctor.verdict(findings))
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo"),
    scale: Annotated[float, typer.Option(help="Factor.")] = 4.0,
    bundle: shared.BundleOption = DEFAULT_MODEL,
) -> None:
    """Upscale the pictures that the package carries, and write a sheet that compares them with bicubic."""
    from hiif_deploy.cli.demo import run_demo

    run_demo(bundle, output, scale)


def tune(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or name of a model.")] = DEFAULT_MODEL,
    engine: shared.EngineOption = None,
    precision: shared.PrecisionOption = None,
    threads: shared.ThreadsOption = 0,
    rounds: Annotated[int, typer.Option(help="Pictures per way of cutting, after one to warm up.")] = 3,
    as_json: shared.JsonOption = False,
    quiet: shared.QuietOption = False,
) -> None:
    """Find the fastest way of cutting the decoder's work on this machine, and store it for later runs."""
    from hiif_deploy.bundle.loader import open_bundle
    from hiif_deploy.cli import report
    from hiif_deploy.cli import tune as tuning
    from hiif_deploy.rendering import tuned
    from hiif_deploy.support.progress import Progress

    if rounds < 1:
        raise OptionError(f"--rounds {rounds}: expected at least 1")
    opened = open_bundle(bundle)
    chosen = engine_options(engine, precision, threads, default=library_engine(precision))
    # Every block with one thread per call, and with all of them in one.
    inside = sorted({1, chosen.thread_count})
    candidates = [tuned.CallConfig(block, count) for count in inside for block in tuning.BLOCKS]
    with Progress("tuning", (rounds + 1) * len(candidates), unit="pictures", enabled=not quiet) as progress:
        found = tuning.measure(opened, chosen, candidates, rounds, progress.advance)
    path = tuned.store(opened, chosen, found)
    if as_json:
        print(json_text({**asdict(found), "file": str(path)}))
    else:
        report.show(report.tuning_table(found))
