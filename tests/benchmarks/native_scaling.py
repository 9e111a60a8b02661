"""What limits native code on many cores: kernels and Python's share of a picture, and times that follow from them.

    python tests/benchmarks/native_scaling.py hiif-compact --size 640x360 --scale 2 --cores 8 --cores 64

A picture is upscaled with as many threads as there would be cores, on however many there are, and measured in
processor time: seconds in kernels, and the rest, Python and NumPy, which runs on one core at a time. The computed time
is the rest, and after it the encoder's kernels on as many cores as share a layer, the decoder's on all cores, and those
that are not shared on as many as there are tiles. In truth they overlap. `full` is full-size HIIF with random weights
(extra `export`).
"""

from __future__ import annotations

import argparse
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hiif_deploy import EngineOptions, Upscaler
from hiif_deploy.bench.case import open_model, picture
from hiif_deploy.geometry.sizes import output_size
from hiif_deploy.geometry.target import parse_size
from hiif_engines.native.compile import Argument, Call, Compiled
from hiif_engines.native.crew import WAKE_MACS

ENCODER = "convolution_"
"""Beginning of the names of the encoder's kernels."""
ALONE = ("maps", "finish")
"""Kernels that one thread computes for a tile."""


class Watch:
    """Processor seconds and calls of the kernels of this process, by name."""

    def __init__(self) -> None:
        self.seconds, self.calls = Counter[str](), Counter[str]()
        self._lock = threading.Lock()

    def install(self) -> None:
        """Let all native code that is opened from now on be timed."""
        plain = Compiled.function
        Compiled.function = lambda code, name: self._timed(name, plain(code, name))  # type: ignore[method-assign]

    def _timed(self, name: str, call: Call) -> Callable[[Sequence[Argument]], None]:
        kind = "encoder" if name.startswith(ENCODER) else name

        def timed(values: Sequence[Argument]) -> None:
            began = time.thread_time()
            call(values)
            spent = time.thread_time() - began
            with self._lock:
                self.seconds[kind] += spent  # type: ignore[assignment]
                self.calls[kind] += 1

        return timed


def measured(watch: Watch, upscaler: Upscaler, image: Any, scale: float, rounds: int) -> dict[str, float]:
    """The round with the least processor time."""
    upscaler.upscale(image, scale=scale)
    found = []
    for _ in range(rounds):
        watch.seconds.clear()
        watch.calls.clear()
        began = time.process_time()
        upscaler.upscale(image, scale=scale)
        total, kernels = time.process_time() - began, sum(watch.seconds.values())
        encoder, alone = watch.seconds["encoder"], sum(watch.seconds[name] for name in ALONE)
        parts = {"encoder": encoder, "alone": alone, "decoder": kernels - encoder - alone}
        found.append({"total": total, "rest": total - kernels, **parts})
    return min(found, key=lambda one: one["total"])


def main() -> None:
    """Measure one model and picture for each number of cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="hiif-compact")
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--scale", type=float, default=2)
    parser.add_argument("--cores", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    watch, bundle = Watch(), open_model(given.model, None, show_progress=False).bundle
    watch.install()
    source = parse_size("--size", given.size)
    image, queries = picture(source), math.prod(output_size(source, scale=given.scale))
    for cores in given.cores or (1, 2, 8, 16, 64):
        with Upscaler(bundle, engine=EngineOptions(engine="native", threads=cores)) as upscaler:
            encoder = upscaler.backend.sessions["encoder"]  # type: ignore[attr-defined]
            macs, _ = encoder.work({"image": np.empty((1, 3, *source), np.float32)})
            found = measured(watch, upscaler, image, given.scale, given.rounds)
        parts, tiles = math.isqrt(macs // len(encoder._steps) // WAKE_MACS), watch.calls["maps"]
        shared = found["encoder"] / max(1, min(cores, parts)) + found["decoder"] / cores
        seconds = found["rest"] + shared + found["alone"] / min(cores, tiles)
        print(
            f"{given.model} {given.size} x{given.scale:g}, {cores} cores: kernels {found['encoder']:.3f} (encoder), "
            f"{found['decoder']:.3f} and {found['alone']:.3f} s (not shared), rest {found['rest']:.3f} s; "
            f"{parts} threads per layer, {tiles:.0f} tiles, "
            f"{sum(watch.calls.values())} calls; computed {seconds:.3f} s, {found['total'] / seconds:.1f} cores, "
            f"{queries / seconds / 1e6:.2f} million queries/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
