"""Every instruction set and precision of native code on this processor: GFLOP/s of a picture's kernels in one thread,
beside a product of a library that is limited to the same instruction set, in turns.

    hiif-deploy bench full --rounds 1 --scale 2 --variants exact     # exports the model once
    python tests/benchmarks/native_targets.py ~/.cache/hiif-deploy/bench/*/bundle --scale 2 --scale 3.3 --scale 4

Rates are of the thread's own processor time, so that other work on the machine disturbs them little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

from hiif_deploy import EngineOptions, RenderOptions, Upscaler
from hiif_deploy.bench.isa_peak import measure_limited
from hiif_deploy.decoding.session import ComputePrecision, Session, Tensors
from hiif_deploy.errors import HiifError
from hiif_engines.native.compile import lacking
from hiif_engines.native.encoder import NativeEncoder
from hiif_engines.native.maps import NativeMaps
from hiif_engines.native.session import NativeSession
from hiif_engines.native.target import TARGETS, Target

PRODUCT = 1024
"""Side of the matrices whose product is the peak."""
KERNELS = (NativeEncoder, NativeMaps, NativeSession)


class Meter:
    """Adds up processor time and multiplications of all kernels while it is entered."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.macs: Counter[str] = Counter()

    def measured(self, session: Session, feeds: Tensors) -> Tensors:
        """Run a kernel."""
        began = time.thread_time()
        outputs = self.run[type(session)](session, feeds)
        name = session.graph.name
        self.seconds[name] += time.thread_time() - began
        self.macs[name] += session.work(feeds)[0]
        return outputs

    def __enter__(self) -> Meter:
        self.run = {kind: kind.run for kind in KERNELS}
        for kind in KERNELS:
            kind.run = lambda session, feeds: self.measured(session, feeds)
        return self

    def __exit__(self, *_: object) -> None:
        for kind, run in self.run.items():
            kind.run = run

    def rate(self, *names: str) -> float:
        """GFLOP/s of these kernels; of all without names."""
        chosen = names or tuple(self.macs)
        return 2e-9 * sum(self.macs[name] for name in chosen) / sum(self.seconds[name] for name in chosen)


def choices() -> Iterator[tuple[Target, ComputePrecision]]:
    """All that this processor has."""
    for target in TARGETS.values():
        yield from ((target, precision) for precision in target.precisions if not lacking(target, precision))


def main() -> None:
    """Print a row for each instruction set, precision and scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--scale", type=float, action="append", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=128, help="rows and columns of the picture")
    parser.add_argument("--statistics", choices=["exact", "sampled"], default="exact")
    chosen = parser.parse_args()
    options = RenderOptions(statistics=chosen.statistics)
    frame = np.random.default_rng(0).integers(0, 256, (chosen.side, chosen.side, 3), dtype=np.uint8)
    print("| target | precision | scale | processor seconds | GFLOP/s | decoder alone | library | share |")
    print("|---|---|---|---|---|---|---|---|")
    for target, precision in choices():
        engine = EngineOptions(engine="native", precision=precision, threads=1, isa=target.name)
        with Upscaler(chosen.bundle, engine=engine, options=options) as upscaler:
            for scale in chosen.scale:
                print(_row(upscaler, frame, scale, chosen.rounds), flush=True)


def _row(upscaler: Upscaler, frame: np.ndarray, scale: float, rounds: int) -> str:
    engine = upscaler.engine
    upscaler.upscale(frame, scale=scale)
    seconds, rates, decoder, peaks = [], [], [], []
    for _ in range(rounds):
        with Meter() as meter:
            began = time.process_time()
            upscaler.upscale(frame, scale=scale)
            seconds.append(time.process_time() - began)
        rates.append(meter.rate())
        # The last pass has the most of them.
        decoder.append(meter.rate(max(meter.macs, key=meter.macs.__getitem__)))
        try:
            peaks.append(measure_limited(engine.isa, engine.precision or "fp32", 1, PRODUCT).gflops)
        except HiifError:
            peaks.append(float("nan"))
    rate, peak = statistics.median(rates), max(peaks)
    cells = f"{statistics.median(seconds):.2f} | {rate:.0f} | {statistics.median(decoder):.0f} | {peak:.0f}"
    return f"| {engine.isa} | {engine.precision} | {scale:g} | {cells} | {rate / peak:.0%} |"


if __name__ == "__main__":
    main()
