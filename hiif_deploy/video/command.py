"""`hiif-deploy upscale` for videos: pairs inputs with outputs, runs or plans them, and reports the outcomes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hiif_deploy.errors import HiifError, OptionError, WorkInterruptedError
from hiif_deploy.geometry.target import Target
from hiif_deploy.images.io import VIDEO_SUFFIXES
from hiif_deploy.pictures.batch import Outcome
from hiif_deploy.pictures.items import Item, check_pairs
from hiif_deploy.pictures.pace import measure_pace, probe_size
from hiif_deploy.support.durations import frame_rate
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video.mux import FORMATS
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import VideoPlan, plan_video
from hiif_deploy.video.run import MakeSegments, VideoResult, is_complete, make_video


@dataclass(frozen=True)
class VideoOutcome(Outcome):
    """Outcome of one video, as the report lists it."""

    frames_in: int = 0
    """Number of requested frames of the clip."""
    frames: int = 0
    """Number of frames in the output."""
    resumed_frames: int = 0
    """Frames in the output that an earlier run finished."""
    fps: float | None = None
    """Frames per second of this run; an estimate in a dry run."""
    damaged_frames: tuple[int, ...] = ()
    """Frames that could not be decoded, and were repeated or left out."""
    missing_frames: int = 0
    """Estimated number of missing frames, from gaps in the clip's times."""
    fallback_blocks: int = 0
    """Frames or blocks of queries that were recomputed in fp32."""
    statistics_db: float | None = None
    """Worst PSNR of reused statistics against exact ones on the frames where both were computed."""


def are_videos(inputs: Sequence[Path]) -> bool:
    """Whether the inputs are video files. OptionError for both kinds at once: their options differ."""
    videos = [path for path in inputs if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()]
    if videos and len(videos) < len(inputs):
        raise OptionError("pictures and videos together: give them to two commands")
    return bool(videos)


def list_videos(inputs: Sequence[Path], output: Path | None, label: str) -> list[Item]:
    """Pair inputs with outputs; without `output` each lies beside its input, in a container that can be written."""
    is_file = output is not None and not output.is_dir() and output.suffix.lower() in FORMATS
    if is_file and len(inputs) > 1:
        raise OptionError(f"{output}: one file for {len(inputs)} videos; give a folder")
    items = []
    for source in inputs:
        suffix = source.suffix.lower() if source.suffix.lower() in FORMATS else ".mkv"
        if output is None:
            made = source.with_name(f"{source.stem}_{label}{suffix}")
        elif is_file:
            made = output
        elif output.suffix and not output.is_dir():
            raise OptionError(f"{output}: cannot be written as a video; expected a folder or {', '.join(FORMATS)}")
        else:
            made = output / source.with_suffix(suffix).name
        items.append(Item(source, made))
    check_pairs(items)
    return items


def run_videos(
    upscaler: Upscaler, items: Sequence[Item], target: Target, options: VideoOptions, *, overwrite: bool = False,
    dry_run: bool = False, style: str | None = None, make: MakeSegments | None = None,
) -> Iterator[VideoOutcome]:  # fmt: skip
    """Upscale, or plan, one video after the other; one that fails is reported and the others continue."""
    for item in items:
        source, made = str(item.source), str(item.target)
        try:
            is_there = item.target.exists() and (is_complete(item.target) or not overwrite)
            if is_there:
                yield VideoOutcome(source, made, "skipped", notes=("exists; --overwrite makes it again",))
                continue
            plan = plan_video(item.source, item.target, target, options)
            if dry_run:
                yield _planned(upscaler, item, plan)
                continue
            result = make_video(plan, upscaler, item.target, restart=options.restart, style=style, make=make)
            yield _done(item, plan, result)
        except KeyboardInterrupt as stop:
            if not stop.args:
                raise
            # Typer turns Ctrl-C into an exit code without printing anything.
            raise WorkInterruptedError(stop) from stop
        except HiifError as error:
            yield VideoOutcome(source, made, "failed", error=str(error), exit_code=error.exit_code)


def planned_bytes(upscaler: Upscaler, plan: VideoPlan) -> int:
    """Return the memory that a clip takes."""
    source, size = plan.clip.size, plan.encoding.size
    whole = source[0] * source[1] * (4 * upscaler.contract.encoder.channels + 12) + size[0] * size[1] * 3 * 8
    return whole + upscaler.plan(source).working_bytes


def _planned(upscaler: Upscaler, item: Item, plan: VideoPlan) -> VideoOutcome:
    source, size = plan.clip.size, plan.encoding.size
    pace = measure_pace(upscaler, probe_size(source, size)).seconds(source, size)
    tiling = upscaler.plan(source)
    passes = upscaler.contract.decoder.statistics_passes + 1
    options = " ".join(f"{key}={value}" for key, value in plan.encoding.options)
    coded = f"{plan.encoding.codec}, {plan.encoding.pixel_format}, {options}"
    how = f"{plan.frames} frames in {len(plan.tasks)} segments, {coded}"
    return VideoOutcome(
        str(item.source), str(item.target), "planned", source[::-1], size[::-1], round(pace * plan.frames, 1),
        round(size[0] * size[1] / 1e6 / pace, 4), memory_mib=planned_bytes(upscaler, plan) >> 20,
        decoder_calls=plan.frames * passes * -(-size[0] * size[1] // tiling.query_block),
        notes=(how, *plan.notes), frames_in=plan.frames, frames=plan.frames, fps=round(1 / pace, 3),
        missing_frames=plan.clip.missing,
    )  # fmt: skip


def _done(item: Item, plan: VideoPlan, result: VideoResult) -> VideoOutcome:
    size = plan.encoding.size
    made = plan.frames - result.resumed
    fps = made / max(result.seconds, 1e-9)
    before = f", {result.resumed} made before" if result.resumed else ""
    notes = [f"{result.frames_in} frames in, {result.frames} out, {frame_rate(fps)}{before}"]
    if result.damaged:
        how = "repeated" if plan.tasks[0].on_error == "repeat" else "left out"
        notes.append(f"{len(result.damaged)} frames could not be decoded and were {how}: {_some(result.damaged)}")
    if result.fallback_blocks:
        notes.append(f"{result.fallback_blocks} frames or blocks overflowed in fp16 and were recomputed in fp32")
    if result.resized:
        width, height = plan.clip.size[::-1]
        notes.append(f"{result.resized} frames were not {width}x{height} as the first; they fill the same output")
    if result.deviation_db is not None:
        notes.append(f"statistics were reused until a scene cut: at worst {result.deviation_db:.1f} dB from exact ones")
    return VideoOutcome(
        str(item.source), str(item.target), "done", plan.clip.size[::-1], size[::-1], round(result.seconds, 4),
        round(fps * size[0] * size[1] / 1e6, 4), notes=(*notes, *result.notes), frames_in=result.frames_in,
        frames=result.frames, resumed_frames=result.resumed, fps=round(fps, 3),
        damaged_frames=result.damaged, missing_frames=plan.clip.missing, fallback_blocks=result.fallback_blocks,
        statistics_db=result.deviation_db,
    )  # fmt: skip


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    return shown if len(numbers) <= 10 else f"{shown}, …"
