"""The runtime against the plain PyTorch module on the same picture, in one process, taking turns.

    python tests/benchmarks/plain_ratio.py CHECKPOINT BUNDLE [--side 512] [--scale 4] [--rounds 3] [--threads 2]

`plain` is the reference module on the whole grid, encoder included, as the public code runs it. It needs about
18 KB per query for the full-size model. Prints one JSON object; `ratio` is plain / runtime, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from hiif_deploy import EngineOptions, Upscaler
from hiif_deploy.demo import sample
from hiif_export.parity import torch_colours, torch_features
from hiif_training.checkpoint import load_checkpoint


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("bundle")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_checkpoint(arguments.checkpoint).model
    side, size = arguments.side, (round(arguments.side * arguments.scale),) * 2
    image = np.asarray(cv2.resize(sample("astronaut"), (side, side), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    answers: dict[str, np.ndarray] = {}
    with Upscaler(arguments.bundle, engine=EngineOptions(threads=arguments.threads)) as upscaler:

        def plain() -> None:
            features = torch_features(model, upscaler.contract, image)
            answers["plain"] = torch_colours(model, upscaler.contract, image, features, size)

        def runtime() -> None:
            answers["runtime"] = upscaler.render_unclamped(upscaler.encode(image), size=size)

        seconds = take_turns({"plain": plain, "runtime": runtime}, arguments.rounds)
    result = {
        "output": f"{size[1]}x{size[0]}",
        "threads": arguments.threads,
        "plain_s": round(seconds["plain"], 2),
        "runtime_s": round(seconds["runtime"], 2),
        "ratio": round(seconds["plain"] / seconds["runtime"], 2),
        "largest_deviation": float(np.abs(answers["plain"] - answers["runtime"]).max()),
    }
    print(json.dumps(result))


def take_turns(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each variant; a round runs each once, after a warm-up of all but `plain`."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    variants["runtime"]()
    for _ in range(rounds):
        for name, variant in variants.items():
            began = time.perf_counter()
            variant()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
