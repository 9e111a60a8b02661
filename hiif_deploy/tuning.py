"""How the decoder's work is cut on this machine: measured once per bundle and engine, stored, used from then on.

The answer does not depend on the cut. The best block of queries is one whose rows stay in a core's cache and that is
long enough for a matrix product; which that is depends on the processor, the model's width and the arithmetic.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from hiif_deploy import store_root
from hiif_deploy.bundle import Bundle
from hiif_deploy.errors import OptionError
from hiif_deploy.measured_store import keep_measured, measured_path
from hiif_deploy.say import say_on_stderr
from hiif_deploy.session import EngineOptions

FOLDER = "tuning"
"""Below the store's root."""
BLOCKS = (256, 512, 1024, 2048, 4096)
"""Queries per decoder call that are tried."""
SOURCE, SCALE = 96, 3
"""Side of the picture that is measured on, and its enlargement."""
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Cut:
    """How the queries are spread over the processor."""

    query_block: int
    """Most queries per decoder call."""
    call_threads: int
    """Threads inside one decoder call; so many calls run at once that all are busy."""

    def __post_init__(self) -> None:
        if not (0 < self.query_block <= 1 << 24 and 0 < self.call_threads <= 1 << 12):
            raise OptionError(f"cut {self.query_block} × {self.call_threads}: expected positive numbers")


@dataclass(frozen=True)
class Tuning:
    """What was measured."""

    bundle: str
    """Its name, for people."""
    engine: str
    """Engine and arithmetic, for people."""
    processor: str
    """Its name and the threads used."""
    cut: Cut
    """The fastest."""
    seconds: dict[str, float]
    """Median seconds of every cut that was tried, by `BLOCK x THREADS`."""


def is_tunable(engine: EngineOptions) -> bool:
    """Whether the decoder's calls run on the processor."""
    return engine.engine == "openvino" or (engine.engine == "onnxruntime" and engine.provider.lower() == "cpu")


def find(bundle: Bundle, engine: EngineOptions) -> Cut | None:
    """What is stored for this bundle, engine and machine, if anything. A damaged file is told and not used."""
    path = _path(bundle, engine) if is_tunable(engine) else None
    if path is None or not path.is_file():
        return None
    try:
        return _read(path).cut
    except (OSError, ValueError, TypeError, KeyError, OptionError) as error:
        say_on_stderr(f"hiif-deploy: {path}: not a tuning ({error}); it is not used: hiif-deploy tune writes it anew")
        return None


def stored() -> list[Tuning]:
    """All tunings of this user that can be read, for `doctor`."""
    root = store_root.wanted_root()
    found = []
    for path in sorted((root / FOLDER).glob("*.json")) if root else []:
        try:
            found.append(_read(path))
        except (OSError, ValueError, TypeError, KeyError, OptionError):
            continue
    return found


def store(bundle: Bundle, engine: EngineOptions, tuning: Tuning) -> Path:
    """Write a tuning; EngineError where there is no place for it."""
    return keep_measured(_path(bundle, engine), asdict(tuning))


def cuts(threads: int) -> list[Cut]:
    """All that are tried: every block with one thread per call, and with all of them in one."""
    return [Cut(block, inside) for inside in sorted({1, threads}) for block in BLOCKS]


def measure(
    bundle: Bundle, engine: EngineOptions, candidates: Sequence[Cut], rounds: int, advance: Callable[[int], None]
) -> Tuning:
    """Decode one picture with every cut, taking turns; `advance` is told of each."""
    from hiif_deploy.demo import sample
    from hiif_deploy.upscaler import RenderOptions, Upscaler

    if not is_tunable(engine):
        raise OptionError(f"engine {engine.engine} has nothing to tune: expected onnxruntime on the cpu, or openvino")
    image = np.asarray(cv2.resize(sample("astronaut"), (SOURCE, SOURCE), interpolation=cv2.INTER_AREA), np.uint8)
    seconds: dict[Cut, list[float]] = {cut: [] for cut in candidates}
    for inside in sorted({cut.call_threads for cut in candidates}):
        some = [cut for cut in candidates if cut.call_threads == inside]
        with Upscaler(bundle, engine=replace(engine, call_threads=inside), options=RenderOptions(query_block=1)) as one:
            features = one.encode(image)
            for turn in range(rounds + 1):
                for cut in some:
                    one.options = RenderOptions(query_block=cut.query_block)
                    began = time.perf_counter()
                    one.render(features, scale=SCALE)
                    if turn:  # the first warms up
                        seconds[cut].append(time.perf_counter() - began)
                    advance(1)
            description = one.description
    medians = {cut: statistics.median(values) for cut, values in seconds.items()}
    return Tuning(
        bundle.contract.name,
        description,
        f"{processor()}, {engine.thread_count} threads",
        min(medians, key=medians.__getitem__),
        {f"{cut.query_block} x {cut.call_threads}": round(value, 4) for cut, value in medians.items()},
    )


def processor(file: Path = CPU_INFO) -> str:
    """What the system calls the processor."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _path(bundle: Bundle, engine: EngineOptions) -> Path | None:
    facts = [
        sorted(graph.sha256 for graph in bundle.contract.graphs), engine.engine, engine.precision,
        engine.thread_count, processor(), onnxruntime.__version__,
    ]  # fmt: skip
    return measured_path(FOLDER, facts)


def _read(path: Path) -> Tuning:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Tuning(**{**value, "cut": Cut(**value["cut"])})
