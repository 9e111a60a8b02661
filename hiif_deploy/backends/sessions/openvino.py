"""OpenVINO as an engine of the processor: fp32, and faster approximate precisions where the processor has them.

bf16: matrix products and what lies between them in bfloat16. int8: besides, every constant matrix in 8 bits with a
scale per output, the rows that meet it in 8 bits with scales of their own; a row's output therefore does not depend
on the rows beside it. Which graphs may run so is the backend's choice (design/decoding.md §5).
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.backends.options import EngineOptions, check_outputs
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.session import ComputePrecision, Tensors
from hiif_deploy.errors import EngineError
from hiif_deploy.support.extras import missing_extra

if TYPE_CHECKING:
    from openvino import Model

INSTRUCTIONS: dict[ComputePrecision, frozenset[str]] = {
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "int8": frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}),
}
"""Any one of these processor flags makes a precision faster than fp32; without them it would only be less exact."""
CALLERS_THREAD = 0
"""Streams of a compiled graph that has no thread of its own."""
MIN_OUTPUTS = 16
"""Smaller matrices, such as the last one to three colours, stay as they are: they cost nothing and show most."""


class OpenvinoSession:
    """One graph in OpenVINO.

    With one thread per call it works in the caller's thread, and every calling thread has a compiled graph of its own:
    handing a call to a thread of the engine's, which then waits for the next one, costs a sixth of a decoder's time on
    two cores (design/decoding.md §5). With more, calls from several threads share `streams` teams of threads.
    """

    def __init__(
        self, graph: GraphContract, models: Sequence[bytes], arithmetic: ComputePrecision, *, threads: int, streams: int
    ) -> None:
        """`models` are joined in their order; `threads` work inside one call, and `streams` calls at once."""
        require_instructions(arithmetic)
        self.name = graph.name
        self._graph = graph
        self._outputs = [tensor.name for tensor in graph.outputs]
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in graph.inputs}
        self._settings = _settings(arithmetic, threads, streams)
        try:
            self._network = join([_core().read_model(model=model, weights=b"") for model in models])
            if arithmetic == "int8":
                # OpenVINO takes one size of group for all products, and scales for each group within a row.
                self._settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = quantise(self._network)
            self._models = deque([self._compiled()])
        except RuntimeError as error:
            raise EngineError(f"graph {graph.name}: OpenVINO cannot load it: {_last_line(error)}") from error
        self._in_callers_thread = threads == 1
        self._local = threading.local()

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """EngineError names the graph and the engine's reason."""
        inputs = {name: np.ascontiguousarray(feeds[name], dtype=dtype) for name, dtype in self._dtypes.items()}
        try:
            found = self._request().infer(inputs, share_inputs=True)
        except RuntimeError as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
            raise EngineError(f"graph {self.name} failed on {shapes}: {_last_line(error)}") from error
        outputs = {name: found[name] for name in self._outputs}
        check_outputs(self._graph, inputs, outputs)
        return outputs

    def _request(self) -> Any:
        """Inference request of the calling thread."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled_for_caller().create_infer_request()
        return self._local.request

    def _compiled_for_caller(self) -> Any:
        if not self._in_callers_thread:
            return self._models[0]
        try:
            return self._models.pop()
        except IndexError:
            return self._compiled()

    def _compiled(self) -> Any:
        return _core().compile_model(self._network, "CPU", self._settings)


def join(networks: Sequence[Model]) -> Model:
    """Networks one behind the other as one: tensors of equal names become one tensor."""
    known: dict[str, Any] = {}
    parameters = []
    for network in networks:
        for parameter in network.get_parameters():
            name = parameter.output(0).get_any_name()
            if name in known:
                parameter.output(0).replace(known[name])
            else:
                known[name] = parameter.output(0)
                parameters.append(parameter)
        known |= {output.get_any_name(): output.get_node().input_value(0) for output in network.outputs}
    return load_openvino().Model(networks[-1].get_results(), parameters, networks[-1].get_friendly_name())


def quantise(network: Model) -> int:
    """Constant matrices → 8 bits, symmetric, a scale per output, in place; returns what divides all their rows.

    The engine then brings what meets them to 8 bits too, with a scale for every group of that size within a row.
    """
    ops, group = load_openvino().opset13, 0
    for node in network.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        weight = node.input_value(1).get_node().get_data()
        rows = weight if node.get_attributes()["transpose_b"] else weight.T
        if rows.ndim != 2 or len(rows) < MIN_OUTPUTS:
            continue
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        whole = ops.convert(ops.constant(np.rint(rows / scale).astype(np.int8)), np.float32)
        product = ops.matmul(
            node.input_value(0), ops.multiply(whole, ops.constant(scale.astype(np.float32))),
            transpose_a=False, transpose_b=True,
        )  # fmt: skip
        node.output(0).replace(product.output(0))
        group = math.gcd(group, rows.shape[1])
    return group


def require_instructions(arithmetic: ComputePrecision) -> None:
    """EngineError where this processor would not be faster in it."""
    wanted, found = INSTRUCTIONS.get(arithmetic), processor_flags()
    if wanted is not None and found is not None and not wanted & found:
        raise EngineError(
            f"{arithmetic} needs a processor with one of {', '.join(sorted(wanted))}, and this one has none of them: "
            "it would be slower and less exact than fp32; leave --precision out"
        )


@cache
def processor_flags(file: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Instruction sets that the system names, as Linux writes them; None where it names none."""
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return frozenset(
        flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split(":")[1].split()
    )


@cache
def _core() -> Any:
    # One, and never given up: OpenVINO's processor plugin gives the thread that loads it another stack for signals, and
    # frees that stack on whichever thread its last user ends. The next signal (a child ended) then kills the process.
    return load_openvino().Core()


_IMPORTING = threading.Lock()
"""Held while `openvino_telemetry` looks uninstalled: `cache` lets several threads in at once, and the first one to
leave would uncover it for the others."""


def open_openvino(
    graph: GraphContract, models: Sequence[bytes], options: EngineOptions, threads: int, *, keep_memory: bool,
    precision: ComputePrecision,
) -> OpenvinoSession:  # fmt: skip
    """Load one graph, or several one behind the other as one; see `sessions.open.open_session`."""
    del keep_memory  # OpenVINO always keeps its buffers
    streams = max(1, options.thread_count // threads)
    return OpenvinoSession(graph, tuple(models), precision, threads=threads, streams=streams)


@cache
def load_openvino() -> ModuleType:
    """The module `openvino`, imported without its telemetry; MissingExtraError where it is not installed."""
    # Importing openvino sends the system, the version and an identifier, which it keeps in the home folder, to Google
    # Analytics. No variable switches that off. Where its telemetry package is missing, it uses a stub of its own.
    with _IMPORTING, _absent("openvino_telemetry"):
        try:
            return import_module("openvino")
        except ModuleNotFoundError as error:
            raise missing_extra("openvino", "openvino") from error


@contextlib.contextmanager
def _absent(package: str) -> Iterator[None]:
    """Make `package` look uninstalled to whoever imports it meanwhile."""
    before = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # as the import system documents it
    try:
        yield
    finally:
        sys.modules.pop(package, None)
        if before is not None:
            sys.modules[package] = before


def _settings(arithmetic: ComputePrecision, threads: int, streams: int) -> dict[str, Any]:
    low = arithmetic == "bf16" or (arithmetic == "int8" and bool(INSTRUCTIONS["bf16"] & (processor_flags() or set())))
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads if threads == 1 else threads * streams,
        "NUM_STREAMS": CALLERS_THREAD if threads == 1 else streams,
        "INFERENCE_PRECISION_HINT": "bf16" if low else "f32",
        "ENABLE_CPU_PINNING": False,
    }
    return settings


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
