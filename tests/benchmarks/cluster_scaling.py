"""A clip by one process, by one Ray worker and by several, one processor each: rates, and what a worker costs.

    python tests/benchmarks/cluster_scaling.py [--workers 2] [--frames 48] [--size 160x90] [--scale 2]

Prints one JSON object. Rates leave out starting Ray and opening the model, which are told by themselves; all files must
be equal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2

from hiif_deploy import Upscaler
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.cluster.pool import ClusterOptions, Pool
from hiif_deploy.cluster.segments import make_segments_on
from hiif_deploy.geometry.target import Target, parse_size
from hiif_deploy.video.options import VideoOptions
from hiif_deploy.video.plan import plan_video
from hiif_deploy.video.run import MakeSegments, make_video

SAMPLE = Path(__file__).resolve().parents[2] / "hiif_deploy" / "samples" / "astronaut.png"
ENGINE = EngineOptions(engine="onnxruntime", threads=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", default="160x90")
    parser.add_argument("--scale", type=float, default=2.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Upscaler("hiif-video", engine=ENGINE) as upscaler:
        folder = Path(name)
        clip = write_clip(folder / "clip.mkv", arguments.frames, parse_size("--size", arguments.size))
        rates = {"process": run(clip, folder / "0.mkv", upscaler, arguments.scale, None)}
        starts = {}
        for workers in (1, arguments.workers):
            began = time.perf_counter()
            options = ClusterOptions("local", workers)
            with Pool(upscaler.bundle, options, ENGINE, upscaler.options) as pool:
                pool.wait_for(workers)
                starts[workers] = round(time.perf_counter() - began, 2)
                rate = run(clip, folder / f"{workers}.mkv", upscaler, arguments.scale, partial(make_segments_on, pool))
            rates[f"ray {workers}"] = rate
        files = {path.read_bytes() for path in folder.glob("[0-9].mkv")}
    if len(files) != 1:
        sys.exit("the files differ")
    one, many = rates["ray 1"], rates[f"ray {arguments.workers}"]
    print(json.dumps({
        "frames_per_second": {key: round(value, 3) for key, value in rates.items()},
        "start_seconds": starts,
        "one_worker_costs_percent": round(100 * (1 - one / rates["process"]), 1),
        "scaling": round(many / one, 3),
        "efficiency_percent": round(100 * many / one / arguments.workers, 1),
    }))  # fmt: skip


def run(clip: Path, output: Path, upscaler: Upscaler, scale: float, make: MakeSegments | None) -> float:
    """Frames per second of the whole command, planning and putting together included."""
    began = time.perf_counter()
    plan = plan_video(clip, output, Target(scale=scale), VideoOptions(segment_frames=4))
    result = make_video(plan, upscaler, output, style="none", make=make)
    return result.frames / (time.perf_counter() - began)


def write_clip(path: Path, frames: int, size: tuple[int, int]) -> Path:
    """A pan over a sample picture."""
    sample = cv2.resize(cv2.imread(str(SAMPLE)), (size[1] + frames, size[0] + frames))
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "18", "g": "8"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for n in range(frames):
            part = sample[n : n + size[0], n : n + size[1]].copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, "bgr24")))
        container.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    main()
