"""ONNX Runtime as an engine."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hiif_deploy.backends.options import EngineOptions, check_outputs
from hiif_deploy.backends.providers import INSTALL, full_provider
from hiif_deploy.bundle.contract import GraphContract, TensorContract
from hiif_deploy.decoding.session import ComputePrecision, Tensors
from hiif_deploy.errors import BundleError, EngineError


class OrtSession:
    """One graph in ONNX Runtime. Outputs are fresh arrays that the caller owns."""

    def __init__(
        self, graph: GraphContract, model: bytes, provider: str, threads: int, *, keep_memory: bool = True
    ) -> None:
        self.name = graph.name
        self._graph = graph
        self.provider = full_provider(provider)
        require_provider(self.provider)
        try:
            self._session = ort.InferenceSession(model, _options(threads), providers=[provider_choice(self.provider)])
        except Exception as error:  # ONNX Runtime raises half a dozen unrelated types
            raise EngineError(f"graph {graph.name}: ONNX Runtime cannot load it: {first_line(error)}") from error
        _refuse_fallback(self._session, self.provider, graph.name)
        self._run_options = _run_options(keep_memory)
        self._outputs = [tensor.name for tensor in graph.outputs]
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in graph.inputs}
        _compare(graph, graph.inputs, self._session.get_inputs())
        _compare(graph, graph.outputs, self._session.get_outputs())

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """EngineError names the graph and the engine's reason."""
        inputs = {name: np.ascontiguousarray(feeds[name], dtype=dtype) for name, dtype in self._dtypes.items()}
        try:
            values = self._session.run(self._outputs, inputs, self._run_options)
        except Exception as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
            raise EngineError(f"graph {self.name} failed on {shapes}: {first_line(error)}") from error
        outputs = dict(zip(self._outputs, values, strict=True))
        check_outputs(self._graph, inputs, outputs)
        return outputs


def open_onnxruntime(
    graph: GraphContract, models: Sequence[bytes], options: EngineOptions, threads: int, *, keep_memory: bool,
    precision: ComputePrecision,
) -> OrtSession:  # fmt: skip
    """Load one graph; see `sessions.open.open_session`. EngineError for several models."""
    del precision  # that of the graph
    if len(models) > 1:
        raise EngineError(f"graph {graph.name} has several parts, and ONNX Runtime runs one at a time")
    return OrtSession(graph, models[0], options.provider, threads, keep_memory=keep_memory)


def provider_choice(provider: str) -> tuple[str, dict[str, str]]:
    """The provider with the options that keep fp32 what it says."""
    # ONNX Runtime turns TF32 on by default on CUDA: ten bits of mantissa under the name of fp32.
    return provider, {"use_tf32": "0"} if provider == "CUDAExecutionProvider" else {}


def require_provider(provider: str) -> None:
    """EngineError where this ONNX Runtime has no such execution provider."""
    available = ort.get_available_providers()
    if provider not in available:
        how = f"; add it with: {INSTALL[provider]}" if provider in INSTALL else ""
        raise EngineError(f"{provider} is not in this ONNX Runtime ({ort.__version__} has {', '.join(available)}){how}")


def _options(threads: int) -> ort.SessionOptions:
    _share_arena()
    options = ort.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _run_options(keep_memory: bool) -> ort.RunOptions:
    options = ort.RunOptions()
    if not keep_memory:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@cache
def _share_arena() -> None:
    """One arena for the buffers of all sessions, growing by what is needed; otherwise each has one, which doubles.

    Without any, large tensors come from the system and go back one by one: their page faults took more than half of
    SwinIR's time, and tensors just below malloc's limit were never given back (design/decoding.md §4).
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    same_as_requested = {"arena_extend_strategy": 1, "initial_chunk_size_bytes": -1, "max_dead_bytes_per_chunk": -1}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"max_mem": 0, **same_as_requested}))


def _refuse_fallback(session: ort.InferenceSession, wanted: str, graph: str) -> None:
    """ONNX Runtime only prints when it falls back to the CPU; a user must not pay for that unknowingly."""
    actual = session.get_providers()[0]
    if actual != wanted:
        raise EngineError(
            f"graph {graph}: requested {wanted}, ONNX Runtime chose {actual}; its libraries are missing or do not "
            "match: see hiif-deploy doctor, or choose --provider cpu"
        )


def _compare(graph: GraphContract, promised: tuple[TensorContract, ...], found: list[ort.NodeArg]) -> None:
    types = {
        "float16": "tensor(float16)", "float32": "tensor(float)", "float64": "tensor(double)", "int32": "tensor(int32)",
        "int64": "tensor(int64)", "uint8": "tensor(uint8)", "uint16": "tensor(uint16)",
    }  # fmt: skip
    wanted = [(tensor.name, types[tensor.dtype], len(tensor.shape)) for tensor in promised]
    actual = [(node.name, node.type, len(node.shape)) for node in found]
    if wanted != actual:
        raise BundleError(f"graph {graph.name}: the file has {actual}, the contract promises {wanted}")


def first_line(error: Exception) -> str:
    """First line of an ONNX Runtime error, which goes on for many."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
