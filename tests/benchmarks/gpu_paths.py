"""Every way to enlarge a picture on a GPU in one run: frames/s, TFLOP/s, their share of the GEMM rate, memory, dB.

    python tests/benchmarks/gpu_paths.py [--sizes 1920x1080:3840x2160 1280x720:2560x1440] [--rounds 5] [--json FILE]
                                         [--bundle DIR --checkpoint FILE] [--ways NAME …] [--device cuda]

Without `--bundle` the full-size model with random weights is exported first: they say everything of speed. A way is
opened, warmed up, timed with its frames' way from and to the host, and closed; the GEMM rate is measured before each.
A way that is absent, or does not fit the memory, is named with its reason. `plain:N` and `compiled:N` cut the work into
N queries per call, which changes the picture: they stand in where the whole grid does not fit. Multiplications are
counted on the processor, which computes no query twice; where a way does, its true rate is higher. Sampled ways are not
counted. `psnr_db` is against ONNX Runtime on the processor in fp32, on a small picture. At the end every way is
compared with the plain module, eager and compiled, whole grid or in chunks, whichever ran.

Flags of torch: `fused` kernels, CUDA `graphs`, `sampled` statistics, `small`: within 4 GiB, which 8192x8192 is to fit:

    … --ways torch-fp16-fused-graphs-small --sizes 2048x2048:8192x8192

Flag of onnxruntime: `bound`, tensors stay on the GPU. Run `hiif-deploy tune-kernels BUNDLE` before, or the fused
kernels are cut as nobody has measured yet.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from hiif_deploy.backends.engines import Engine
from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.onnxruntime_device import DeviceBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bench.case import BenchModel, Image, Work, picture
from hiif_deploy.bench.work import count_upscale
from hiif_deploy.bundle.contract import Precision
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.decoding.compose import normalise
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.pixels import FrameFormat, from_unit, to_unit
from hiif_deploy.rendering.renderer import Array
from hiif_deploy.rendering.verify import measure
from hiif_deploy.upscaler import RenderOptions, Upscaler
from hiif_engines.torch_engine.backend import TorchBackend
from hiif_engines.torch_graph.device import exact_products, open_device
from hiif_export.baselines.bench_model import NAME, SPEC
from hiif_export.baselines.bench_plain import EagerBaseline, chunks, decode_maps, load_model, query_maps
from hiif_export.export import export_bundle
from hiif_export.parity.parity import cases
from hiif_training.checkpoints.checkpoint import save_checkpoint
from hiif_training.models.implicit import skip
from hiif_training.models.registry import make_model

CHUNK = 1 << 18
"""Queries per call of `plain` and `compiled` where the whole grid does not fit a GPU."""
CHECKED: tuple[Size, Size] = (40, 56), (92, 129)
"""(height, width) from and to, where deviations are measured."""
GEMM_TURNS = 5
CALLS = 2
"""ONNX Runtime: decoder calls at once."""
WORKING_MEMORY = 16 << 30
"""ONNX Runtime: bytes that a picture may take, its maps included."""
SMALL = 4 << 30
"""Engine torch: bytes that a picture may take where the flag `small` asks for it."""
SIZES = "1920x1080:3840x2160", "1280x720:2560x1440"


class Module:
    """The reference module in fp32 on a device, TF32 off, eager or by torch.compile."""

    def __init__(self, model: BenchModel, device: torch.device, *, compiled: bool, chunk: int | None) -> None:
        self._contract, self._device, self._chunk = model.bundle.contract, device, chunk
        self._model = load_model(model).to(device)

        def features(given: Tensor) -> Tensor:
            return query_maps(self._model, self._model.encode(given))

        def colours(maps: Tensor, given: Tensor, queries: Any) -> Tensor:
            found = decode_maps(self._model, maps, queries)
            return found + skip(given, queries) if self._model.traits.skip == "bilinear" else found

        self._features: Callable[..., Tensor] = torch.compile(features, dynamic=False) if compiled else features
        self._colours: Callable[..., Tensor] = torch.compile(colours, dynamic=False) if compiled else colours

    def colours(self, image: Image, size: Size) -> Array:
        """[H, W, 3] floats before clamping and rounding, 1 being white."""
        with torch.inference_mode(), exact_products():
            given = torch.from_numpy(normalise(self._contract, to_unit(image))).to(self._device)
            maps = self._features(given)
            asked = chunks(self._model, (image.shape[0], image.shape[1]), size, self._chunk)
            parts = [self._colours(maps, given, queries.to(self._device)) for queries in asked]
            found = torch.cat(parts, dim=1).cpu().numpy().reshape(*size, 3)
        scale = self._contract.normalisation
        std, mean = (np.array(values, np.float32) for values in (scale.std, scale.mean))
        return np.asarray(found * std + mean)

    def upscale(self, image: Image, size: Size) -> Image:
        """[h, w, 3] → [H, W, 3], as a user wants it."""
        return from_unit(self.colours(image, size), FrameFormat.of(image))

    def close(self) -> None:
        """Nothing but memory."""


class UpscalerRunner:
    """An upscaler on some engine."""

    def __init__(self, upscaler: Upscaler) -> None:
        self._upscaler = upscaler
        self.close = upscaler.close
        self.detail = upscaler.description

    def colours(self, image: Image, size: Size) -> Array:
        """[H, W, 3] floats before clamping and rounding, 1 being white."""
        return self._upscaler.render_unclamped(self._upscaler.encode(image), size=size)

    def upscale(self, image: Image, size: Size) -> Image:
        """[h, w, 3] → [H, W, 3], as a user calls it."""
        frame: Image = self._upscaler.upscale(image, size=size)
        return frame


def open_way(name: str, model: BenchModel, device: torch.device) -> Module | UpscalerRunner:
    """A way by its name: plain[:N], compiled[:N], or ENGINE-ARITHMETIC with flags (see above)."""
    first, _, chunk = name.partition(":")
    if first in ("plain", "compiled"):
        return Module(model, device, compiled=first == "compiled", chunk=int(chunk) if chunk else None)
    engine, arithmetic, *flags = name.split("-")
    precision: Precision = "fp16" if arithmetic == "fp16" else "fp32"
    options = RenderOptions(statistics="sampled") if "sampled" in flags else RenderOptions()
    if engine == "torch":
        wanted = EngineOptions(engine="torch", device=str(device), precision=precision)
        wanted = replace(wanted, gpu_memory=SMALL if "small" in flags else None)
        backend = TorchBackend(model.bundle, wanted, fused="fused" in flags, recorder="graphs" in flags)
        return UpscalerRunner(Upscaler(model.bundle, engine=wanted, options=options, backend=backend))
    provider = "cuda" if device.type == "cuda" else "cpu"
    other = EngineOptions(engine=cast(Engine, engine), provider=provider, precision=precision)
    if engine != "onnxruntime":
        return UpscalerRunner(Upscaler(model.bundle, engine=other, options=options))
    # Few and large calls, as a GPU wants them; maps are kept where they are used.
    other = replace(other, threads=CALLS)
    options = replace(options, memory=WORKING_MEMORY, query_block=CHUNK // 4)
    kind = DeviceBackend if "bound" in flags else HostBackend
    return UpscalerRunner(Upscaler(model.bundle, engine=other, options=options, backend=kind(model.bundle, other)))


WAYS = (
    "plain", f"plain:{CHUNK}", "compiled", f"compiled:{CHUNK}", "torch-fp32", "torch-fp32-fused", "torch-fp16",
    "torch-fp16-graphs", "torch-fp16-fused", "torch-fp16-fused-graphs", "torch-fp16-fused-graphs-sampled",
    "onnxruntime-fp32", "onnxruntime-fp16", "onnxruntime-fp32-bound", "onnxruntime-fp16-bound", "tensorrt-fp16",
)  # fmt: skip


def gemm_tflops(dtype: torch.dtype, device: torch.device) -> float:
    """The best of a few large products, sums in float32, TF32 off."""
    side = 8192 if device.type == "cuda" else 256
    a = torch.randn(side, side, dtype=dtype, device=device)
    best = 0.0
    with exact_products():
        for _ in range(GEMM_TURNS):
            synchronise(device)
            began = time.perf_counter()
            a @ a
            synchronise(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e12)
    return best


def macs_of(count: Callable[[Image, Size], Work]) -> Callable[[Size, Size], float]:
    """Multiplications for any sizes: so many per source pixel, per query, and once; counted on small pictures."""
    places = ((16, 32), (16, 64), (32, 64))
    table = [[side * side, large * large, 1] for side, large in places]
    counted = [count(picture((side, side)), (large, large)).macs for side, large in places]
    pixel, query, once = np.linalg.solve(np.array(table, dtype=np.float64), np.array(counted, dtype=np.float64))
    return lambda source, size: float(pixel * source[0] * source[1] + query * size[0] * size[1] + once)


def timed(way: Module | UpscalerRunner, source: Size, size: Size, rounds: int) -> list[float]:
    """Seconds of each round, after one that is not counted."""
    image, seconds = picture(source), []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        way.upscale(image, size)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def used_bytes(device: torch.device) -> int | None:
    """GPU memory in use by everybody; PyTorch and ONNX Runtime keep what they once took, so growth is the peak."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def measure_way(
    name: str, model: BenchModel, device: torch.device, sizes: list[tuple[Size, Size]], rounds: int,
    macs: Callable[[Size, Size], float], reference: Array,
) -> Iterator[dict[str, object]]:  # fmt: skip
    """One row per pair of sizes; a row with a `reason` where there is nothing to measure."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    gemm = gemm_tflops(torch.float16 if "fp16" in name else torch.float32, device)
    before = used_bytes(device)
    try:
        way = open_way(name, model, device)
    except Exception as error:
        yield {"way": name, "reason": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        return
    try:
        # Without its checkpoint the module has weights of its own.
        comparable = isinstance(way, UpscalerRunner) or model.checkpoint is not None
        psnr = measure(way.colours(picture(CHECKED[0]), CHECKED[1]), reference).psnr if comparable else None
        for source, size in sizes:
            row = {"way": name, "from": text(source), "to": text(size), "detail": getattr(way, "detail", "")}
            seconds = timed(way, source, size, rounds)
            rate = None if "sampled" in name else 2 * macs(source, size) / median(seconds) / 1e12
            after = used_bytes(device)
            grown = None if before is None or after is None else (after - before) >> 20
            yield row | {
                "frames_per_s": 1 / median(seconds), "seconds": seconds, "tflops": rate, "gemm_tflops": gemm,
                "share": rate and rate / gemm, "device_mib": grown, "psnr_db": psnr,
            }  # fmt: skip
    except Exception as error:  # a kernel that does not compile, memory that does not suffice
        yield {"way": name, "reason": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    finally:
        way.close()


def line(row: dict[str, object]) -> str:
    """For people."""
    facts = {key: value for key, value in row.items() if key not in ("way", "seconds")}
    shown = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items())
    return f"{row['way']}: {', '.join(shown)}"


def ratios(rows: list[dict[str, Any]]) -> Iterator[dict[str, object]]:
    """How many times faster than the plain module each way was at each pair of sizes."""
    measured = [row for row in rows if "reason" not in row]
    for row in measured:
        place = row["from"], row["to"]
        found: dict[str, object] = {"way": row["way"], "from": place[0], "to": place[1]}
        for kind in ("plain", "compiled"):
            rates = [
                other["frames_per_s"]
                for other in measured
                if (other["from"], other["to"]) == place and other["way"].partition(":")[0] == kind
            ]
            if rates:
                found[f"times_{kind}"] = row["frames_per_s"] / max(rates)
        yield found


def text(size: Size) -> str:
    """Columns first, as people write it."""
    return f"{size[1]}x{size[0]}"


def pair(words: str) -> tuple[Size, Size]:
    """WxH:WxH → (height, width) from and to."""
    source, size = ((int(h), int(w)) for w, h in (part.split("x") for part in words.split(":")))
    return source, size


@contextmanager
def opened_model(bundle: str | None, checkpoint: Path | None) -> Iterator[BenchModel]:
    """The one asked for, or the full-size one with random weights in both precisions."""
    if bundle is not None:
        yield BenchModel(bundle, open_bundle(bundle), checkpoint)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model, weights = make_model(SPEC).eval(), Path(folder) / "model.pth"
        save_checkpoint(weights, model, SPEC)
        suite = cases(sizes=((16, 24),), scales=(2.0,))
        export_bundle(
            model, SPEC, Path(folder) / "bundle", name=NAME, provenance={"weights": "random"}, suite=suite,
            precisions=("fp32", "fp16"),
        )  # fmt: skip
        yield BenchModel(NAME, open_bundle(Path(folder) / "bundle"), weights)


def run(
    model: BenchModel, device: torch.device, ways: list[str], sizes: list[tuple[Size, Size]], rounds: int
) -> Iterator[dict[str, object]]:
    """All rows, as they are found."""
    threads = EngineOptions().thread_count
    ours = macs_of(lambda image, size: count_upscale(model.bundle, RenderOptions(), threads, image, size))
    plain = macs_of(EagerBaseline(model, threads, None).work)
    with Upscaler(model.bundle) as upscaler:
        reference = UpscalerRunner(upscaler).colours(picture(CHECKED[0]), CHECKED[1])
    for name in ways:
        macs = plain if name.startswith(("plain", "compiled")) else ours
        yield from measure_way(name, model, device, sizes, rounds, macs, reference)


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--sizes", nargs="+", type=pair, default=[pair(words) for words in SIZES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(words)
    device, rows = open_device(asked.device), []
    with opened_model(asked.bundle, asked.checkpoint) as model:
        for row in run(model, device, asked.ways, asked.sizes, asked.rounds):
            rows.append(row)
            print(line(row), flush=True)
        compared = list(ratios(rows))
        print(*map(line, compared), sep="\n")
        facts = {"model": model.name, "torch": torch.__version__, "host": platform.platform()}
    facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    if asked.json is not None:
        asked.json.write_text(json.dumps({**facts, "results": rows, "ratios": compared}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
