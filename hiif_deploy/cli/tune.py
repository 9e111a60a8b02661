"""How the decoder is called best on this machine: measured once per bundle and engine, stored, used from then on.

The result does not depend on it. The best block of queries is one whose rows stay in a core's cache and that is
long enough for a matrix product; which that is depends on the processor, the model's width and the arithmetic.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from hiif_deploy.backends.engines import ENGINES
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.errors import OptionError
from hiif_deploy.rendering.tuned import CallConfig, Tuning, is_tunable, processor

BLOCKS = (256, 512, 1024, 2048, 4096)
"""Queries per decoder call that are tried."""
SOURCE, SCALE = 96, 3
"""Side of the picture that is measured on, and its enlargement."""


def measure(
    bundle: Bundle, engine: EngineOptions, candidates: Sequence[CallConfig], rounds: int, advance: Callable[[int], None]
) -> Tuning:
    """Decode one picture with every configuration in turns; `advance` is called with 1 for each run."""
    from hiif_deploy.images.samples import sample
    from hiif_deploy.rendering.open_engine import open_backend
    from hiif_deploy.rendering.renderer import Renderer, RenderOptions

    if not is_tunable(engine):
        tunable = " or ".join(name for name, spec in ENGINES.items() if spec.is_tunable)
        raise OptionError(f"engine {engine.engine} has nothing to tune: expected {tunable}, on the processor")
    image = np.asarray(cv2.resize(sample("astronaut"), (SOURCE, SOURCE), interpolation=cv2.INTER_AREA), np.uint8)
    seconds: dict[CallConfig, list[float]] = {call: [] for call in candidates}
    for inside in sorted({call.call_threads for call in candidates}):
        some = [call for call in candidates if call.call_threads == inside]
        with Renderer(bundle, open_backend(bundle, replace(engine, call_threads=inside))) as one:
            features = one.encode(image)
            for turn in range(rounds + 1):
                for call in some:
                    one.options = RenderOptions(query_block=call.query_block)
                    began = time.perf_counter()
                    one.render(features, scale=SCALE)
                    if turn:  # the first warms up
                        seconds[call].append(time.perf_counter() - began)
                    advance(1)
            description = one.description
    medians = {call: statistics.median(values) for call, values in seconds.items()}
    shown = {f"{call.query_block} x {call.call_threads}": round(value, 4) for call, value in medians.items()}
    where = f"{processor()}, {engine.thread_count} threads"
    return Tuning(bundle.contract.name, description, where, min(medians, key=medians.__getitem__), shown)
