"""This machine's own peak: one large matrix product in each arithmetic, by the engines that run the models."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.engines import Engine
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.contract import GraphContract, TensorContract
from hiif_deploy.decoding.session import ComputePrecision, Session
from hiif_deploy.errors import HiifError

SIDE = 2048
"""Of the matrices."""
ENGINES: dict[ComputePrecision, tuple[Engine, ...]] = {
    "fp32": ("onnxruntime", "openvino"), "bf16": ("openvino",), "int8": ("openvino",),
}  # fmt: skip
"""What runs a product in each arithmetic on the processor."""
TURNS = 3
"""Products per measurement."""


@dataclass
class GemmPeak:
    """GFLOP/s of one arithmetic, the best seen so far."""

    arithmetic: ComputePrecision
    """Of the product."""
    gflops: float = 0.0
    """Two operations per multiplication."""
    engine: str = ""
    """Which engine reached it; limited to an instruction set, which library."""


class GemmMeter:
    """Measured again in every round, as a machine's speed drifts: the peak is the best of the whole run."""

    def __init__(
        self, threads: int, arithmetics: set[ComputePrecision], side: int = SIDE,
        engines: Collection[Engine] = get_args(Engine),
    ) -> None:  # fmt: skip
        self._side = side
        self._sessions: list[tuple[ComputePrecision, Engine, Session]] = []
        x, y = (TensorContract(name, "float32", (side, side)) for name in "xy")
        contract = GraphContract("product", "", "", (x,), (y,))
        for arithmetic in sorted(arithmetics):
            for engine in (name for name in ENGINES.get(arithmetic, ()) if name in engines):
                options = EngineOptions(engine=engine, threads=threads, precision=arithmetic)
                try:
                    session = open_session(
                        contract, matmul_model(side), options, threads=threads, keep_memory=True,
                        precision=arithmetic,
                    )  # fmt: skip
                except HiifError:
                    continue  # an engine that is not here sets no peak
                self._sessions.append((arithmetic, options.engine, session))
        self.peaks = {arithmetic: GemmPeak(arithmetic) for arithmetic, _, _ in self._sessions}
        self._rows = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)

    def measure(self) -> None:
        """Once more on every engine."""
        for arithmetic, engine, session in self._sessions:
            gflops = _best_rate(lambda session=session: session.run({"x": self._rows}), self._side)  # type: ignore[misc]
            if gflops > self.peaks[arithmetic].gflops:
                self.peaks[arithmetic] = GemmPeak(arithmetic, gflops, engine)


def best_product(side: int) -> float:
    """GFLOP/s of NumPy's product."""
    left, right = (np.random.default_rng(n).standard_normal((side, side), dtype=np.float32) for n in (0, 1))
    return _best_rate(lambda: left @ right, side)


def _best_rate(product: Callable[[], object], side: int) -> float:
    product()
    found = []
    for _ in range(TURNS):
        began = time.perf_counter()
        product()
        found.append(2 * side**3 / (time.perf_counter() - began) / 1e9)
    return max(found)


def matmul_model(side: int) -> bytes:
    """An ONNX file with one operation, y = x · w, w constant [side, side]: written by hand, as `onnx` is optional.

    The field numbers are those of onnx.proto; ONNX keeps them for ever.
    """
    weight: NDArray[np.float32] = np.random.default_rng(1).standard_normal((side, side), dtype=np.float32)
    tensor = _number(1, side) + _number(1, side) + _number(2, 1) + _text(8, b"w") + _text(9, weight.tobytes())
    node = _text(1, b"x") + _text(1, b"w") + _text(2, b"y") + _text(4, b"MatMul")
    ends = [_text(field, _text(1, name) + _text(2, _text(1, _number(1, 1) + _text(2, 2 * _text(1, _number(1, side))))))
            for field, name in ((11, b"x"), (12, b"y"))]  # fmt: skip
    graph = _text(1, node) + _text(2, b"product") + _text(5, tensor) + b"".join(ends)
    return _number(1, 8) + _text(7, graph) + _text(8, _number(2, 17))


def _number(field: int, value: int) -> bytes:
    """Bytes of an integer field in protobuf."""
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: bytes) -> bytes:
    """A protobuf field of bytes, text or a message."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])
