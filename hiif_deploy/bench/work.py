"""Multiplications and bytes of a picture, counted from what ONNX Runtime says it executed: its profile names every
operation with the shapes it met. Nothing is estimated from the model's description. Native code reports its own."""

import json
import math
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hiif_deploy.backends.host import HostBackend
from hiif_deploy.backends.options import EngineOptions
from hiif_deploy.bench.case import Image, Work
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.session import Session, Tensors
from hiif_deploy.geometry.sizes import Size
from hiif_deploy.rendering.renderer import Renderer, RenderOptions

Shape = list[int]


class CountingSession:
    """One graph in ONNX Runtime, which writes down every operation into a file of `folder`."""

    def __init__(self, model: bytes | str, folder: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / f"{id(self)}")
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # A weight that was packed for the processor would have no shape.
        options.add_session_config_entry("session.disable_prepacking", "1")
        # Beyond that level convolutions are laid out for one processor, channels padded.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = {node.name: node.type for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """See `Session`."""
        inputs = {name: np.ascontiguousarray(feeds[name], dtype=_DTYPES[kind]) for name, kind in self._inputs.items()}
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def finish(self) -> Work:
        """All calls so far; the session must not be run any more."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        times = (event for event in events if event.get("cat") == "Node" and event["name"].endswith("kernel_time"))
        return sum((_operation(event["args"]) for event in times), Work(0, 0))


_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
}  # fmt: skip


class _CountingBackend(HostBackend):
    def __init__(self, bundle: Bundle, options: EngineOptions, folder: Path) -> None:
        self._folder = folder
        self._counting: list[CountingSession] = []
        super().__init__(bundle, options)

    def _open(self, graph: GraphContract, *_parts: GraphContract) -> Session:
        session = CountingSession(self._bundle.graphs[graph.key], self._folder, self._threads)
        self._counting.append(session)
        return session

    def finish(self) -> Work:
        return sum((session.finish() for session in self._counting), Work(0, 0))


@runtime_checkable
class ReportsWork(Protocol):
    """A session that is no graph in ONNX Runtime, and knows what it does."""

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """See `Session`."""
        ...

    def work(self, feeds: Tensors) -> tuple[int, int]:
        """Multiplications and bytes of one call."""
        ...


class _Counted:
    """Such a session, and all its work so far."""

    def __init__(self, session: ReportsWork) -> None:
        self._session, self._lock = session, threading.Lock()
        self.total = Work(0, 0)

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        with self._lock:
            self.total += Work(*self._session.work(feeds))
        return self._session.run(feeds)


def count_upscale(
    bundle: Bundle, render: RenderOptions, threads: int, image: Image, size: Size, own: HostBackend | None = None
) -> Work:
    """One picture on ONNX Runtime in fp32. Other arithmetics, and OpenVINO, have the same multiplications.

    Graphs that `own`, a backend that nothing else uses, runs in sessions that report their work are counted by them.
    """
    with tempfile.TemporaryDirectory(prefix="hiif-bench-") as folder:
        options = EngineOptions(engine="onnxruntime", threads=threads)
        backend = _CountingBackend(bundle, options, Path(folder))
        sessions = own.sessions.items() if own else ()
        found = {name: _Counted(session) for name, session in sessions if isinstance(session, ReportsWork)}
        backend.sessions.update(found)
        with Renderer(bundle, backend, render) as renderer:
            renderer.upscale(image, size=size)
            return sum((session.total for session in found.values()), backend.finish())


def count_calls(model: bytes, calls: Iterable[Tensors], threads: int) -> Work:
    """A graph on every one of `calls`."""
    with tempfile.TemporaryDirectory(prefix="hiif-bench-") as folder:
        session = CountingSession(model, Path(folder), threads)
        for feeds in calls:
            session.run(feeds)
        return session.finish()


def _operation(facts: dict[str, Any]) -> Work:
    """One operation as ONNX Runtime's profile describes it."""
    kind, sizes = facts["op_name"], ("activation_size", "parameter_size", "output_size")
    count = _MACS.get(kind)
    inputs, (output, *_) = _shapes(facts["input_type_shape"]), [*_shapes(facts["output_type_shape"]), []]
    return Work(count(inputs, output) if count else 0, sum(int(facts[size]) for size in sizes))


def _product_macs(inputs: list[Shape], output: Shape) -> int:
    """[…, M, K] · […, K, N], either one transposed or not: K² = |A| |B| / (|out| · batch of B)."""
    left, right = inputs[:2]
    shared = math.isqrt(math.prod(left) * math.prod(right) // max(1, math.prod(output) * math.prod(right[:-2])))
    return math.prod(output) * shared


def _convolution_macs(inputs: list[Shape], output: Shape) -> int:
    """Every output sums over the kernel [O, C / groups, …]."""
    return math.prod(output) * math.prod(inputs[1][1:])


_MACS: dict[str, Callable[[list[Shape], Shape], int]] = {
    "MatMul": _product_macs, "FusedMatMul": _product_macs, "Gemm": _product_macs, "FusedGemm": _product_macs,
    "Conv": _convolution_macs, "FusedConv": _convolution_macs,
}  # fmt: skip
"""Operations that multiply matrices; all others are not counted."""


def _shapes(entries: list[dict[str, Shape]]) -> list[Shape]:
    return [shape for entry in entries for shape in entry.values()]
