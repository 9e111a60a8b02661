"""Layers of convolutions in native code against their definition in NumPy, and encoders against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from emulated_code import compiled
from hiif_deploy.backends.options import ON_HOST
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.contract import GraphContract
from hiif_engines.native.crew import Crew
from hiif_engines.native.encoder import NativeEncoder, NativeStep, plane_of
from hiif_engines.native.encoder_graph import Part, PlaneLayer, read_encoder
from hiif_engines.native.target import Target
from hiif_engines.native.winograd import Activation, emit_convolutions

Array = NDArray[np.float64]
ROUNDING = 2.0**-24
"""Largest relative error of a float32 operation."""


def plain(x: Array, weights: Array) -> Array:
    """[C, h, w] and [O, C, 3, 3] → [O, h, w], by the definition."""
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height, width = x.shape[1:]
    parts = [
        [np.tensordot(weights[:, :, i, j], wide[:, i : i + height, j : j + width], 1) for j in range(3)]
        for i in range(3)
    ]
    return np.sum(parts, axis=(0, 1))


@contextmanager
def helped(threads: int) -> Iterator[Crew]:
    """A crew of so many threads, the calling one included."""
    crew = Crew()
    with ThreadPoolExecutor(max(1, threads - 1)) as pool, crew.phase() as phase:
        phase.begin()
        for _ in range(threads - 1):
            pool.submit(crew.help, phase)
        yield crew


def run(
    target: Target, parts: Sequence[tuple[Array, Array]], bias: Array, activation: Activation = "none",
    added: Array | None = None, threads: int = 1,
) -> Array:  # fmt: skip
    """Pairs of [C, h, w] and [O, C, 3, 3] or [O, C, 1, 1] → [O, h, w] of the sum of their convolutions."""
    named = {f"x{n}": x for n, (x, _) in enumerate(parts)} | ({} if added is None else {"z": added})
    convolutions = tuple(Part(f"x{n}", weights.astype(np.float32)) for n, (_, weights) in enumerate(parts))
    layer = PlaneLayer(convolutions, "y", bias, activation, "" if added is None else "z")
    module = emit_convolutions(target, [layer.kind(target)])
    size = (parts[0][0].shape[1], parts[0][0].shape[2])
    arrays = named | {"y": np.zeros((len(bias), *size))}
    planes = {name: plane_of(target, x.astype(np.float32)) for name, x in arrays.items()}
    step = NativeStep(target, layer, compiled(module, target).function("convolution_0"))
    with helped(threads) as crew:
        step.run(planes, size, crew)
    inside = planes["y"][1 : size[0] + 1, 1 : size[1] + 1]
    assert np.count_nonzero(planes["y"]) == np.count_nonzero(inside), "the padding of the next layer is 0"
    return inside[:, :, : len(bias)].transpose(2, 0, 1).astype(np.float64)


def deviation(target: Target, contract: GraphContract, model: bytes, size: tuple[int, int], threads: int = 1) -> float:
    """Largest deviation of an encoder's features from ONNX Runtime's, relative to their norm."""
    layers = read_encoder(model)
    assert layers is not None
    feeds = {"image": np.random.default_rng(1).uniform(-1, 1, (1, 3, *size)).astype(np.float32)}
    wanted = open_session(contract, model, ON_HOST, threads=1, keep_memory=True).run(feeds)["features"]
    found = NativeEncoder(contract, layers, threads, target, Crew()).run(feeds)["features"]
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def normal(random: np.random.Generator, *shape: int) -> Array:
    """Random values that float32 holds exactly."""
    return random.standard_normal(shape).astype(np.float32).astype(np.float64)
