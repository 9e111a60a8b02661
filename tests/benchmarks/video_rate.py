"""How much of the bare engine's rate is left from file to file: rounds of both, taking turns.

    python tests/benchmarks/video_rate.py CLIP [--bundle hiif-video] [--scale 2] [--frames 24] [--rounds 3]

The bare engine enlarges frames that are decoded already and throws them away. Decoding, conversion and encoding then
stand beside it; on a processor they share its cores, so `--threads` below their number leaves room for them, as a GPU
does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.geometry.target import Target
from hiif_deploy.upscaler import Upscaler
from hiif_deploy.video.frames import task_frames
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import VideoPlan, plan_video
from hiif_deploy.video.run import make_video


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--bundle", default="hiif-video")
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--preset", default="veryfast")
    asked = parser.parse_args()
    options = VideoOptions(frames=(0, asked.frames), preset=asked.preset)
    engine = EngineOptions(engine="onnxruntime", threads=asked.threads)
    with tempfile.TemporaryDirectory() as folder, Upscaler(asked.bundle, engine=engine) as upscaler:
        output = Path(folder) / "large.mkv"
        plan = plan_video(asked.clip, output, Target(scale=asked.scale), options)
        pictures = [source.picture for task in plan.tasks for source in task_frames(task)]
        upscaler.upscale(pictures[0], size=plan.encoding.size)
        bare, whole = [], []
        for _ in range(asked.rounds):
            began = time.perf_counter()
            for picture in pictures:
                upscaler.upscale(picture, size=plan.encoding.size)
            bare.append(time.perf_counter() - began)
            whole.append(whole_seconds(plan, upscaler, output))
    rows, columns = plan.encoding.size
    print(f"{asked.bundle}, {upscaler.engine.thread_count} threads, {len(pictures)} frames to {columns}x{rows}")
    for name, seconds in (("bare engine", bare), ("file to file", whole)):
        print(f"{name:13} {len(pictures) / median(seconds):7.3f} fps  {[round(value, 2) for value in seconds]}")
    print(f"ratio         {median(one / other for one, other in zip(bare, whole, strict=True)):7.3f}")


def whole_seconds(plan: VideoPlan, upscaler: Upscaler, output: Path) -> float:
    """Seconds from file to file, journal and muxing included."""
    output.unlink(missing_ok=True)
    began = time.perf_counter()
    make_video(plan, upscaler, output, style="none")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
