"""Small models, builders and engines for the tests of TensorRT's double."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fake_device import FakeDevice

RANGE = ((1, 4), (8, 4), (16, 4))
ANOTHER_LOGGER = "differs from one already registered"
"""What is said, to the second logger, while two are in use."""
OURS = {"testing", "CrashError", "MisuseError"}
"""The only names of the double that are not TensorRT's."""


def model(kind: int = TensorProto.FLOAT16, source: int | None = None) -> onnx.ModelProto:
    """x (n, 4) → y (n, 8) fp32: a matrix product in `kind`, a rectifier, a cast."""
    weights = np.random.default_rng(1).standard_normal((4, 8))
    arrays = {"w": weights, "b": np.linspace(-1, 1, 8)}
    initial = [numpy_helper.from_array(a.astype(helper.tensor_dtype_to_np_dtype(kind)), n) for n, a in arrays.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], name="gemm"),
        helper.make_node("Relu", ["g"], ["r"], name="relu"),
        helper.make_node("Cast", ["r"], ["y"], name="cast", to=TensorProto.FLOAT),
    ]
    x = helper.make_tensor_value_info("x", source or kind, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    graph = helper.make_graph(nodes, "small", [x], [y], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def sum_model() -> onnx.ModelProto:
    """a (n, 4) + b (n, 4) → c."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "sum", tensors[:2], tensors[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class Bench:
    """A builder with all that must stay alive, and what the library said."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.said: list[str] = []
        self.logger = make_logger(trt, self.said)
        self.builder = trt.Builder(self.logger)
        flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.network = self.builder.create_network(1 << int(flag))
        self.parser = trt.OnnxParser(self.network, self.logger)
        self.config = self.builder.create_builder_config()

    def parse(self, source: bytes | onnx.ModelProto) -> bool:
        return bool(self.parser.parse(source if isinstance(source, bytes) else source.SerializeToString()))

    def errors(self) -> list[str]:
        return [self.parser.get_error(n).code().name for n in range(self.parser.num_errors)]

    def profile(self, **shapes: Any) -> int:
        profile = self.builder.create_optimization_profile()
        for name, given in shapes.items():
            profile.set_shape(name, *given)
        return int(self.config.add_optimization_profile(profile))

    def build(self) -> bytes | None:
        plan = self.builder.build_serialized_network(self.network, self.config)
        return None if plan is None else bytes(plan)


def make_logger(trt: Any, said: list[str]) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            shown = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR, trt.ILogger.WARNING)
            if shown and ANOTHER_LOGGER not in msg:
                said.append(msg)

    return Log()


def make_recorder(trt: Any, said: list[str]) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def report_error(self, *error: Any) -> bool:
            said.append(error[1])
            return True

        def num_errors(self) -> int:
            return len(said)

    return Recorder()


def make_monitor(trt: Any, said: list[str], on_step: Callable[[], bool]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, *_: int) -> None:
            said.append(f"start {phase_name} in {parent_phase}")

        def step_complete(self, *_: Any) -> bool:
            return on_step()

        def phase_finish(self, phase_name: str) -> None:
            said.append(f"finish {phase_name}")

    return Monitor()


def plan_of(trt: Any, source: onnx.ModelProto | None = None, **shapes: Any) -> bytes:
    bench = Bench(trt)
    assert bench.parse(source or model())
    bench.network.name = "small"
    bench.profile(**(shapes or {"x": RANGE}))
    plan = bench.build()
    assert plan is not None
    return plan


class Running:
    """An engine with a context whose memory the caller manages, and buffers for its tensors."""

    def __init__(self, trt: Any, plan: bytes, *, managed: bool = True) -> None:
        self.device: FakeDevice = trt.testing.device
        self.said: list[str] = []
        self.logger = make_logger(trt, self.said)
        self.engine = trt.Runtime(self.logger).deserialize_cuda_engine(plan)
        strategy = trt.ExecutionContextAllocationStrategy
        self.context = self.engine.create_execution_context(strategy.USER_MANAGED if managed else strategy.STATIC)
        self.stream = self.device.stream()
        self.managed = managed

    def prepare(self, rows: int) -> None:
        assert self.context.set_input_shape("x", (rows, 4))
        assert self.context.infer_shapes() == []
        if self.managed:
            size = self.context.update_device_memory_size_for_shapes()
            self.scratch = self.device.allocate(size)
            self.context.set_device_memory(self.scratch, size)
        self.x, self.y = self.device.allocate(rows * 4 * 2), self.device.allocate(rows * 8 * 4)
        assert self.context.set_tensor_address("x", self.x)
        assert self.context.set_tensor_address("y", self.y)

    def execute(self) -> bool:
        return bool(self.context.execute_async_v3(self.stream))

    def answer(self, rows: int) -> np.ndarray[Any, Any]:
        found = np.zeros((rows, 8), np.float32)
        self.device.download(found, self.y, self.stream)
        self.device.synchronize(self.stream)
        return found


def source(rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float16)


def expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    w, b = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in model().graph.initializer)
    return np.maximum(x.astype(np.float64) @ w + b, 0)


def load_rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX's wheels")
