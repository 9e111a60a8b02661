"""The runtime's sub-commands: upscale, info, models, doctor, demo, bench, tune, watch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hiif_deploy import batch, doctor, report
from hiif_deploy.bench.command import bench
from hiif_deploy.bundle import DEFAULT_MODEL, VIDEO_MODEL, open_bundle
from hiif_deploy.cluster.command import RayOption, WorkersOption, open_pool
from hiif_deploy.cluster.pictures import run_batch_on
from hiif_deploy.cluster.pool import Pool
from hiif_deploy.cluster.segments import on_cluster
from hiif_deploy.deviation import exact_twin
from hiif_deploy.errors import OptionError
from hiif_deploy.given import given_options, refuse_options
from hiif_deploy.images import MAX_PIXELS
from hiif_deploy.say import json_text
from hiif_deploy.session import Arithmetic, Engine, EngineOptions, default_engine, library_engine
from hiif_deploy.target import Target, parse_target
from hiif_deploy.trt_library import LibraryName
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_deploy.video import arguments as video
from hiif_deploy.video.command import are_videos, list_videos, run_videos
from hiif_deploy.video.options import SEGMENT_FRAMES, VideoOptions
from hiif_deploy.video.plan import parse_frames, parse_time
from hiif_deploy.watch import watch

LOSSY = (".jpg", ".jpeg", ".webp")
"""Suffixes of pictures that have a quality."""
BundleOption = Annotated[str, typer.Option("--bundle", "-b", help="Bundle folder, or name of a shipped model.")]
UpscaleBundleOption = Annotated[
    str,
    typer.Option(
        "--bundle",
        "-b",
        help="Bundle folder, or name of a shipped model.",
        show_default=f"{DEFAULT_MODEL}, for videos {VIDEO_MODEL}",
    ),
]
EngineOption = Annotated[
    Engine | None,
    typer.Option(
        help="Default: onnxruntime (auto for bf16 and int8). native: code made for this processor. auto: the fastest "
        "that can be had, GPUs first."
    ),
]
PrecisionOption = Annotated[
    Arithmetic | None,
    typer.Option(help="Default: fp16 on TensorRT, fp32 elsewhere. bf16 and int8 are approximate, of processors only."),
]
StatisticsOption = Annotated[
    video.UpscaleStatistics,
    typer.Option(help="Faster and approximate: sampled, of a part of the queries; reuse, for videos: per scene."),
]
DeviationOption = Annotated[
    bool, typer.Option(help="Run exactly too, and tell how far this approximate run is from it.")
]
PublishedOption = Annotated[
    int | None,
    typer.Option(help="Published evaluation: statistics per so many output rows (300 or 100), seams included."),
]
LibraryOption = Annotated[LibraryName, typer.Option(help="With --engine tensorrt: which of the two products.")]
ProviderOption = Annotated[str, typer.Option(help="ONNX Runtime execution provider; never replaced silently.")]
DeviceOption = Annotated[str, typer.Option(help="With --engine torch: cuda, cuda:N, or cpu.")]
ThreadsOption = Annotated[int, typer.Option(help="Processor threads; 0 takes all that this process may use.")]
MemoryOption = Annotated[int, typer.Option(help="Working memory in MiB, beside input, features and output.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Report as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the runtime's sub-commands."""
    app.command()(upscale)
    app.command()(info)
    app.command()(models)
    app.command(name="doctor")(show_doctor)
    app.command()(demo)
    app.command()(bench)
    app.command()(tune)
    app.command()(watch)


def upscale(
    context: typer.Context,
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Pictures, folders of them, or videos.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File or folder; default: beside IN.")] = None,
    bundle: UpscaleBundleOption = DEFAULT_MODEL,
    scale: Annotated[str | None, typer.Option(help="Factor such as 3.3, or 2x3.5 (across x down).")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, both free.")] = None,
    width: Annotated[int | None, typer.Option(help="Output width; the height follows.")] = None,
    height: Annotated[int | None, typer.Option(help="Output height; the width follows.")] = None,
    max_side: Annotated[int | None, typer.Option(help="Pixels of the longer side.")] = None,
    format_: Annotated[str | None, typer.Option("--format", help="png, jpg, webp, tif or bmp; default: as IN.")] = None,
    quality: Annotated[int, typer.Option(help="1 to 100, for JPEG and WebP.")] = 95,
    lossless: Annotated[bool, typer.Option(help="Lossless WebP.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Make outputs again that exist; otherwise they are skipped.")] = False,
    memory: MemoryOption = 1024,
    threads: ThreadsOption = 0,
    engine: EngineOption = None,
    provider: ProviderOption = "cpu",
    precision: PrecisionOption = None,
    library: LibraryOption = "tensorrt",
    device: DeviceOption = "cuda",
    statistics: StatisticsOption = "exact",
    report_deviation: DeviationOption = False,
    published_rows: PublishedOption = None,
    max_pixels: Annotated[int, typer.Option(help="Largest input and output, in pixels.")] = 1 << 30,
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
    ray: RayOption = None,
    workers: WorkersOption = 0,
    dry_run: Annotated[bool, typer.Option(help="Print the plan (sizes, memory, time) and write nothing.")] = False,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
) -> None:
    """Upscale pictures and videos by any factor or to any size."""
    target = parse_target(scale, size, width, height, max_side)
    is_video = are_videos(inputs)
    video.refuse_misplaced(context, is_video=is_video)
    bundle = _model(context, bundle, is_video, quiet)
    write = batch.WriteOptions(quality, lossless, overwrite, min(max_pixels, MAX_PIXELS))
    options = RenderOptions(
        memory=memory << 20, max_output_pixels=max_pixels, group_rows=published_rows,
        clip_cell=published_rows is not None, statistics="exact" if statistics == "reuse" else statistics,
    )  # fmt: skip
    chosen = EngineOptions(
        engine=engine or default_engine(precision), provider=provider, threads=threads, precision=precision,
        library=library, device=device,
    )  # fmt: skip
    wanted = VideoOptions(
        codec, crf, preset, pixel_format, video.parse_encoder_options(encoder_option), parse_frames(frames),
        (parse_time("--from", from_), parse_time("--to", to)), on_error, "reuse" if statistics == "reuse" else "exact",
        segment_frames, restart,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        upscaler = stack.enter_context(Upscaler(bundle, engine=chosen, options=options))
        exact = stack.enter_context(exact_twin(upscaler)) if report_deviation else None
        pool = stack.enter_context(open_pool(ray, workers, upscaler, is_plan=dry_run))
        work: Iterable[batch.Outcome]
        if is_video:
            style = "json" if json_progress else "none" if quiet else None
            videos = list_videos(inputs, output, target.label)
            make = None if pool is None else on_cluster(pool)
            work = run_videos(upscaler, videos, target, wanted, overwrite=overwrite, dry_run=dry_run, style=style,
                              make=make)  # fmt: skip
        else:
            items = batch.list_items(inputs, output, target.label, format_)
            _refuse_write_options(context, items)
            work = _pictures(upscaler, exact, pool, items, target, write, dry_run, quiet)
        _report(upscaler, work, as_json, quiet, dry_run)


def _model(context: typer.Context, bundle: str, is_video: bool, quiet: bool) -> str:
    """The bundle; for a video the model for moving pictures where none was named, and that is said."""
    if not is_video or given_options(context, ["bundle"]):
        return bundle
    if not quiet:
        say_on_stderr(f"model: {VIDEO_MODEL}, for moving pictures; --bundle takes another")
    return VIDEO_MODEL


def _refuse_write_options(context: typer.Context, items: Sequence[batch.Item]) -> None:
    """OptionError for options of formats that no output has."""
    made = {item.target.suffix.lower() for item in items}
    if made.isdisjoint(LOSSY):
        refuse_options(context, ["quality"], f"for {', '.join(LOSSY)}, and no output is one; leave it out")
    if ".webp" not in made:
        refuse_options(context, ["lossless"], "for WebP, and no output is one; leave it out, or add --format webp")


def _pictures(
    upscaler: Upscaler, exact: Upscaler | None, pool: Pool | None, items: list[batch.Item], target: Target,
    write: batch.WriteOptions, dry_run: bool, quiet: bool,
) -> Iterable[batch.Outcome]:  # fmt: skip
    if dry_run:
        return batch.plan_batch(upscaler, items, target, write)
    if pool is not None:
        return run_batch_on(pool, items, target, write, show_progress=not quiet)
    return batch.run_batch(upscaler, items, target, write, show_progress=not quiet, exact=exact)


def _report(upscaler: Upscaler, work: Iterable[batch.Outcome], as_json: bool, quiet: bool, dry_run: bool) -> None:
    outcomes = []
    for outcome in work:
        outcomes.append(outcome)
        report.say_outcome(outcome, quiet=quiet or dry_run)
    report.say_batch(upscaler, outcomes, as_json=as_json, quiet=quiet, is_plan=dry_run)
    if code := batch.exit_code(outcomes):
        raise typer.Exit(code)


def info(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or name of a shipped model.")] = DEFAULT_MODEL,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle holds and promises, after checking all of it."""
    opened = open_bundle(bundle)
    if as_json:
        print(json_text(report.bundle_facts(opened)))
    else:
        Console().print(report.bundle_table(opened))


def models(
    name: Annotated[str | None, typer.Argument(help="Show this model's card.")] = None, as_json: JsonOption = False
) -> None:
    """List the models that ship, or show the card of one: data, licence, recipe, figures, limits."""
    from hiif_deploy.shipped import list_models, model_card

    if name is not None:
        print(model_card(name))
    elif as_json:
        print(json_text([asdict(model) for model in list_models()]))
    else:
        Console().print(report.models_table(list_models()))


def show_doctor(as_json: JsonOption = False) -> None:
    """Show versions, engines and shipped models, and the command that adds what is missing."""
    findings = doctor.examine()
    if as_json:
        print(json_text([asdict(finding) for finding in findings]))
    else:
        Console().print(report.findings_table(findings))
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo"),
    scale: Annotated[float, typer.Option(help="Factor.")] = 4.0,
    bundle: BundleOption = DEFAULT_MODEL,
) -> None:
    """Upscale the pictures that the package carries, and write a sheet that compares them with bicubic."""
    from hiif_deploy.demo import run_demo

    run_demo(bundle, output, scale, say=lambda line: print(line, file=sys.stdout, flush=True))


def tune(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or name of a shipped model.")] = DEFAULT_MODEL,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = 0,
    rounds: Annotated[int, typer.Option(help="Pictures per way of cutting, after one to warm up.")] = 3,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Find the fastest way of cutting the decoder's work on this machine, and store it for later runs."""
    from hiif_deploy import tuning
    from hiif_deploy.progress import Progress

    if rounds < 1:
        raise OptionError(f"--rounds {rounds}: expected at least 1")
    opened = open_bundle(bundle)
    chosen = EngineOptions(engine=engine or library_engine(precision), precision=precision, threads=threads)
    candidates = tuning.cuts(chosen.thread_count)
    with Progress("tuning", (rounds + 1) * len(candidates), unit="pictures", enabled=not quiet) as progress:
        found = tuning.measure(opened, chosen, candidates, rounds, progress.advance)
    path = tuning.store(opened, chosen, found)
    if as_json:
        print(json_text({**asdict(found), "file": str(path)}))
    else:
        Console().print(report.tuning_table(found))
