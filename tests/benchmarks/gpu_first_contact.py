"""The first ten minutes on a GPU: does everything run, is it right, how fast is it, where does the time go?

    python tests/benchmarks/gpu_first_contact.py --json FILE [--bundle DIR --checkpoint FILE] [--video hiif-video]
                                                 [--source 1920x1080] [--steps gemm end_to_end …] [--device cuda]

Every step is a process of its own with a limit: a crashed or late one is reported, and the next one runs. The file is
written after each step. `--bundle` is the full-size model, exported beforehand; without it the default model is
measured. `baselines` are the plain module in PyTorch, eager and compiled, in chunks of queries, and need
`--checkpoint`. Output is twice as large as the source. `--device cpu` runs the same steps on the processor, to try the
script.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

LIMITS = {
    "versions": 20, "gemm": 30, "kernels_right": 120, "kernels_timed": 60, "stages": 60,
    "end_to_end": 90, "profile": 40, "tests": 120, "baselines": 150,
}  # fmt: skip
"""Step → seconds after which it is stopped, in the order in which the steps run."""
PATIENT = 60
"""On a processor, where everything takes longer, limits are so many times larger."""
CHUNK = 1 << 16
"""Queries per call of the baselines."""
ROUNDS = 5
Row = dict[str, Any]


def main() -> None:
    """Run all steps, or the one of `--step`, whose result is printed."""
    given = arguments().parse_args()
    if given.step:
        print("\n" + json.dumps(STEPS[given.step](given)))
        return
    found: Row = {}
    for name in given.steps:
        began = time.monotonic()
        found[name] = run_step(name, given) | {"wall_s": round(time.monotonic() - began, 1)}
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1))


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="hiif-compact")
    parser.add_argument("--video", default="hiif-video")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--source", default="1920x1080")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--step", choices=list(LIMITS), help=argparse.SUPPRESS)
    return parser


def run_step(name: str, given: argparse.Namespace) -> Row:
    """Run a step in a process of its own; return what it printed last, or why there is nothing."""
    words = [
        "--bundle", given.bundle, "--video", given.video, "--source", given.source, "--device", given.device,
        *(["--checkpoint", str(given.checkpoint)] if given.checkpoint else []), "--step", name,
    ]  # fmt: skip
    limit = LIMITS[name] * (1 if given.device.startswith("cuda") else PATIENT)
    environment = {**os.environ, "TRITON_INTERPRET": "0" if given.device.startswith("cuda") else "1"}
    try:
        step = subprocess.Popen(
            [sys.executable, __file__, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip
        said, errors = step.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # With all that it started, which would go on using the GPU.
        os.killpg(step.pid, signal.SIGKILL)
        step.communicate()
        return {"failed": f"stopped after {limit} s"}
    if step.returncode:
        return {"failed": errors.strip().splitlines()[-1:], "log": errors[-2000:]}
    found: Row = json.loads(said.strip().splitlines()[-1])
    return found


def versions(given: argparse.Namespace) -> Row:
    """Return versions, the GPU and its limits."""
    import torch

    found: Row = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if given.device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(given.device)
        found |= {name: str(getattr(properties, name)) for name in dir(properties) if not name.startswith("_")}
    return found


def gemm(given: argparse.Namespace) -> Row:
    """Return TFLOP/s of products in fp16, and GB/s of copies from and to the host."""
    import torch

    large = given.device.startswith("cuda")
    shapes = [(8192, 8192, 8192), (65536, 256, 256)] if large else [(256, 256, 256)]
    found: Row = {}
    for m, k, n in shapes:
        a, b = (torch.randn(shape, device=given.device, dtype=torch.float16) for shape in ((m, k), (k, n)))
        found[f"{m}x{k}x{n}"] = 2 * m * k * n / seconds(given, lambda a=a, b=b: a @ b) / 1e12
    host = torch.empty(25 << 20 if large else 1 << 20, dtype=torch.uint8)
    host = host.pin_memory() if large else host
    there = host.to(given.device)
    found["up_gb_s"] = host.nbytes / seconds(given, lambda: there.copy_(host, non_blocking=True)) / 1e9
    found["down_gb_s"] = host.nbytes / seconds(given, lambda: host.copy_(there, non_blocking=True)) / 1e9
    return found


def kernels_timed(given: argparse.Namespace) -> Row:
    """Return milliseconds of every configuration at 65,536 queries and at those of a whole frame."""
    found: Row = {}
    sizes = [(128, 128), size_of(given)] if given.device.startswith("cuda") else [size_of(given)]
    for height, width in sizes:
        for name, kernel, feeds in kernels(given, (height, width), (2 * height, 2 * width)):
            found[f"{name} {4 * height * width}"] = config_seconds(given, kernel, feeds)
    return found


def config_seconds(given: argparse.Namespace, kernel: Any, feeds: Any) -> Row:
    """Return configuration → seconds of a kernel, or the error that it raised."""
    import torch

    from hiif_engines.fused.configs import configs
    from hiif_engines.torch_graph.device import computing_on

    found: Row = {}
    device = torch.device(given.device)
    for config in configs(kernel.graph_name, kernel.width, device):
        try:
            with computing_on(device):
                found[str(config)] = seconds(given, lambda c=config: kernel(feeds, c))
        except Exception as error:  # what a kernel raises is not known beforehand
            found[str(config)] = repr(error)[:300]
    return found


def kernels_right(given: argparse.Namespace) -> Row:
    """Return dB between every configuration and the graph in fp32, at an odd number of queries."""
    import torch

    from hiif_engines.fused.configs import configs
    from hiif_engines.torch_graph.device import computing_on

    found: Row = {}
    device = torch.device(given.device)
    for name, kernel, feeds in kernels(given, (4, 5), (9, 7)):
        with computing_on(device):
            exact = kernel.graph(
                {key: value.float() if value.is_floating_point() else value for key, value in feeds.items()}
            )
            for config in configs(name, kernel.width, device):
                outputs = kernel(feeds, config)
                found[f"{name} {config}"] = {key: decibels(outputs[key], value) for key, value in exact.items()}
    return found


def kernels(given: argparse.Namespace, source: tuple[int, int], size: tuple[int, int]) -> list[tuple[str, Any, Any]]:
    """Return name, kernel and random inputs of every fused kernel; a kernel has its graph in fp32 as `graph`."""
    import torch

    from hiif_deploy.bundle.loader import open_bundle
    from hiif_engines.fused.select import decoder_graphs, open_kernels, random_feeds

    bundle, device = open_bundle(given.bundle), torch.device(given.device)
    graphs, found = decoder_graphs(bundle, device), []
    for name, kernel in open_kernels(graphs, "fp16").items():
        kernel.graph, kernel.graph_name = graphs[name], name  # type: ignore[union-attr]
        found.append((name, kernel, random_feeds(bundle.contract, graphs[name], kernel.dtype, source, size)))
    return found


def stages(given: argparse.Namespace) -> Row:
    """Return milliseconds of a frame's parts: encoder with maps, statistics, colours and download."""
    upscaler, frame, size = opened(given, given.bundle)
    with upscaler:
        for _ in range(3):
            upscaler.upscale(frame, size=size)
        encoded = upscaler.encode(frame)
        statistics = upscaler.statistics(encoded, size)
        parts: dict[str, Callable[[], object]] = {
            "encode": lambda: upscaler.encode(frame),
            "statistics": lambda: upscaler.statistics(encoded, size),
            "colours": lambda: upscaler.render(encoded, size=size, statistics=statistics),
            "frame": lambda: upscaler.upscale(frame, size=size),
        }
        return {name: 1000 * seconds(given, part) for name, part in parts.items()}


def end_to_end(given: argparse.Namespace) -> Row:
    """Return frames/s from array to array, exact and sampled, and dB to ONNX Runtime in fp32 on a small picture."""
    found: Row = {}
    for bundle in dict.fromkeys((given.bundle, given.video)):
        for statistics in ("exact", "sampled"):
            upscaler, frame, size = opened(given, bundle, statistics)
            with upscaler:
                rate = 1 / seconds(given, lambda u=upscaler, f=frame, s=size: u.upscale(f, size=s))
                found[f"{bundle} {statistics}"] = {
                    "frames_per_s": rate, "engine": upscaler.description, "psnr_db": small_psnr(upscaler, bundle),
                    "device_mib": upscaler.memory_bytes >> 20, "fallback_blocks": upscaler.fallback_blocks,
                }  # fmt: skip
    return found


def profile(given: argparse.Namespace) -> Row:
    """Return the slowest operations of one frame, in milliseconds on the device and on the host."""
    import torch

    upscaler, frame, size = opened(given, given.bundle)
    with upscaler:
        for _ in range(3):  # plainly, recorded, replayed
            upscaler.upscale(frame, size=size)
        with torch.profiler.profile() as profiler:
            upscaler.upscale(frame, size=size)
    events = profiler.key_averages()
    cost = "self_device_time_total" if given.device.startswith("cuda") else "self_cpu_time_total"
    slowest = sorted(events, key=lambda event: -getattr(event, cost))[:25]
    return {
        event.key[:80]: [getattr(event, cost) / 1e3, event.self_cpu_time_total / 1e3, event.count] for event in slowest
    }


def tests(given: argparse.Namespace) -> Row:
    """Return the summary of the tests that need a GPU."""
    folder = Path(__file__).resolve().parents[1] / "gpu"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:xdist", str(folder)]
    if not given.device.startswith("cuda"):
        command.append("--collect-only")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"summary": done.stdout.strip().splitlines()[-12:]}


def baselines(given: argparse.Namespace) -> Row:
    """Return frames/s of the plain module in chunks: eager fp32, and compiled fp16, the honest denominator."""
    import torch

    from hiif_deploy.bench.case import BenchModel
    from hiif_deploy.bundle.loader import open_bundle
    from hiif_engines.torch_graph.device import computing_on
    from hiif_export.baselines.bench_plain import chunks, decode_maps, load_model, query_maps

    if given.checkpoint is None:
        return {"failed": "no --checkpoint"}
    height, width = size_of(given)
    model = load_model(BenchModel(given.bundle, open_bundle(given.bundle), given.checkpoint)).to(given.device)
    device, found = torch.device(given.device), {}
    for name, dtype in (
        ("eager fp32", torch.float32),
        ("compiled fp16", torch.float16),
        ("compiled fp32", torch.float32),
    ):
        module = model.to(dtype)
        image = torch.rand(1, 3, height, width, device=device, dtype=dtype)
        parts = [part.to(device) for part in chunks(model, (height, width), (2 * height, 2 * width), CHUNK)]
        decode = decode_maps if name.startswith("eager") else torch.compile(decode_maps, dynamic=True)

        def frame(module: Any = module, image: Any = image, parts: Any = parts, decode: Any = decode) -> object:
            maps = query_maps(module, module.encode(image))
            return torch.cat([decode(module, maps, queries) for queries in parts], dim=1).cpu()

        try:
            with computing_on(device):
                found[name] = 1 / seconds(given, frame, rounds=2)
        except Exception as error:  # a dtype or a graph break that the module does not take
            found[name] = repr(error)[:300]
    return found


def opened(given: argparse.Namespace, bundle: str, statistics: str = "exact") -> tuple[Any, Any, tuple[int, int]]:
    """Return an upscaler in fp16, a frame, and the output's size."""
    from hiif_deploy import EngineOptions, RenderOptions, Upscaler
    from hiif_deploy.bundle.loader import open_bundle
    from hiif_engines.torch_engine.backend import TorchBackend

    options = EngineOptions(engine="torch", device=given.device, precision="fp16")
    opened_bundle = open_bundle(bundle)
    backend = TorchBackend(opened_bundle, options, fused=True)
    rendering = RenderOptions(statistics=statistics)  # type: ignore[arg-type]
    height, width = size_of(given)
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Upscaler(opened_bundle, options=rendering, backend=backend), frame, (2 * height, 2 * width)


def small_psnr(upscaler: Any, bundle: str) -> float:
    """Return dB to ONNX Runtime in fp32."""
    from hiif_deploy import Upscaler
    from hiif_deploy.images.samples import sample
    from hiif_deploy.rendering.verify import measure

    image = sample("astronaut")[100:124, 100:120]
    with Upscaler(bundle) as plain:
        exact = plain.render_unclamped(plain.encode(image), size=(48, 40))
    return float(measure(upscaler.render_unclamped(upscaler.encode(image), size=(48, 40)), exact).psnr)


def seconds(given: argparse.Namespace, work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median seconds of a call, each waited for, after two that are not counted."""
    import torch

    def wait() -> None:
        if given.device.startswith("cuda"):
            torch.cuda.synchronize(given.device)

    found = []
    for _ in range(2 + rounds):
        wait()
        began = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - began)
    return median(found[-rounds:])


def decibels(found: Any, exact: Any) -> float:
    """Return the power of `exact`, at least that of one of 255 steps of a colour, over that of the difference.

    A trained decoder adds almost nothing where its maps are random and small.
    """
    difference = ((found.double() - exact.double()) ** 2).mean().item()
    power = max((exact.double() ** 2).mean().item(), 255**-2)
    return float(10 * np.log10(power / max(difference, 1e-300)))


def size_of(given: argparse.Namespace) -> tuple[int, int]:
    """Return (height, width) of the source."""
    width, height = (int(part) for part in given.source.split("x"))
    return height, width


STEPS: dict[str, Callable[[argparse.Namespace], Row]] = {
    "versions": versions, "gemm": gemm, "kernels_right": kernels_right,
    "kernels_timed": kernels_timed, "stages": stages, "end_to_end": end_to_end, "profile": profile, "tests": tests,
    "baselines": baselines,
}  # fmt: skip

if __name__ == "__main__":
    main()
