"""Validates each kernel against its graph on random inputs, and so rejects misidentified architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.options import ON_HOST
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.errors import EngineError

SIZES = {
    "pixels": 20,
    "rows": 5,
    "columns": 7,
    "queries": 35,
    "height": 9,
    "width": 11,
    "tile_height": 8,
    "tile_width": 31,
}
"""Sizes of the inputs' dynamic axes."""
EXACT, COARSE = 1e-4, 0.1
"""Largest deviation, relative to the output's own norm, of fp32 and of other precisions. A misidentified architecture
deviates by more than half."""


def check_kernels(
    bundle: Bundle, graphs: Mapping[str, GraphContract], sessions: Mapping[str, Session], allowed: float
) -> None:
    """Raise EngineError naming the first graph whose output differs from ONNX Runtime's."""
    random = np.random.default_rng(0)
    for name, graph in graphs.items():
        feeds = {tensor.name: _values(random, tensor.name, tensor.shape) for tensor in graph.inputs}
        whole = open_session(graph, bundle.graphs[graph.key], ON_HOST, threads=1, keep_memory=True)
        deviation = _deviation(sessions[name].run(feeds), whole.run(feeds))
        if not deviation <= allowed:
            raise EngineError(
                f"graph {graph.key} of {bundle.contract.name} does not have the architecture of the native code: its "
                f"outputs deviate by {deviation:.1%}; use --engine onnxruntime"
            )


def _deviation(outputs: Tensors, expected: Tensors) -> float:
    """Return the largest relative root mean square deviation of the outputs."""
    shares = [np.linalg.norm(outputs[name] - value) / np.linalg.norm(value) for name, value in expected.items()]
    return float(max(shares))


def _values(random: np.random.Generator, name: str, shape: tuple[int | str, ...]) -> NDArray[Any]:
    """Return random values in the range of this input."""
    sizes = [SIZES[size] if isinstance(size, str) else size for size in shape]
    if name.endswith("_tap"):
        return random.integers(0, SIZES["pixels"] // 2, sizes)
    if name.endswith("_bits"):
        return random.integers(0, 2, sizes)
    if name == "image":
        # Waves, because trained encoders amplify rounding errors in pictures of noise a thousand times.
        down, across = np.meshgrid(*(np.arange(size) / 4 for size in sizes[2:]), indexing="ij")
        phases = random.uniform(0, 2 * np.pi, sizes[1])[:, None, None]
        return np.sin(down + across + phases)[None].astype(np.float32)
    values = random.standard_normal(sizes)
    if name == "moments":
        # Σ² must be positive and as large as for many values, or the variance would be negative.
        values = np.abs(values) * [1, 400]
    elif name.endswith("_distance"):
        values = np.abs(values)
    elif name.endswith("_weight"):
        values /= np.sqrt(sizes[0])
    return values.astype(np.float32)
