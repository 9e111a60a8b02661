"""The runtime side: plans become engines, or None with a word to the logger."""

from __future__ import annotations

import json
from typing import Any

from ._base import Buffer, Dims, Strict, api, attribute, held, make
from ._build import PLAN
from ._context import IExecutionContext
from ._enums import DataType, ExecutionContextAllocationStrategy, LayerInformationFormat, TensorIOMode
from ._graph import Graph, Tensor
from ._log import IErrorRecorder, ILogger, Voice
from ._scratch import scratch_size
from ._testing import major, testing, version


class PlanError(Exception):
    """A plan that cannot be loaded here."""


class Runtime(Strict):
    """Loads engines."""

    error_recorder = attribute("IErrorRecorder | None", check=held("the error recorder"))

    @api
    def __init__(self, logger: ILogger) -> None:
        self._voice = Voice(logger, "createInferRuntime")

    @api
    def deserialize_cuda_engine(self, serialized_engine: Buffer) -> ICudaEngine | None:
        try:
            if testing.deserialize_failures:
                raise PlanError(testing.deserialize_failures.pop(0))
            head, model = _read(bytes(serialized_engine))
            self._check(head)
            graph = Graph(model)
            _ = graph.session
        except PlanError as error:
            return self._fail(str(error))
        except Exception as error:  # whatever protobuf and ONNX Runtime say to damaged bytes
            return self._fail(f"Serialization assertion failed: {type(error).__name__}")
        # A damaged weight is a valid weight: nothing notices, here or in the real library.
        return make(ICudaEngine, head=head, graph=graph, runtime=self, voice=self._voice, label=head["name"])

    def _check(self, head: dict[str, Any]) -> None:
        if head["version"] != version():
            raise PlanError(
                "The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {version()} got {head['version']}, please rebuild."
            )
        gpu, capability = testing.facts()
        if head["capability"] != capability:
            raise PlanError(
                "The engine plan file is generated on an incompatible device, "
                f"expecting compute {capability} got compute {head['capability']}, please rebuild."
            )
        if head["gpu"] != gpu:
            self._voice.log("WARNING", "Using an engine plan file across different models of devices")

    def _fail(self, text: str) -> None:
        self._voice.error(self.error_recorder, "INTERNAL_ERROR", f"IRuntime::deserializeCudaEngine: {text}")


class ICudaEngine(Strict):
    """A loaded plan."""

    error_recorder = attribute("IErrorRecorder | None", check=held("the error recorder"))

    @property
    def name(self) -> str:
        return str(self._head["name"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        return len(self._head["layers"])

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._head["profiles"])

    @property
    def device_memory_size_v2(self) -> int:
        return max(scratch_size(profile) for profile in self._largest)

    @api
    def get_tensor_name(self, index: int) -> str | None:
        return self._tensors[index].name if 0 <= index < len(self._tensors) else None

    @api
    def get_tensor_mode(self, name: str) -> Any:
        if self._find(name) is None:
            return TensorIOMode.__members__["NONE"]
        return TensorIOMode.__members__["INPUT" if self._is_input(name) else "OUTPUT"]

    @api
    def get_tensor_dtype(self, name: str) -> Any:
        tensor = self._find(name)
        return DataType.__members__["FLOAT"] if tensor is None else tensor.dtype

    @api
    def get_tensor_shape(self, name: str) -> Dims:
        tensor = self._find(name)
        return Dims(()) if tensor is None else Dims(tensor.shape)

    @api
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if not self._is_input(name) or not 0 <= profile_index < self.num_optimization_profiles:
            self._error(f"{name} is no input, or there is no profile {profile_index}")
            raise RuntimeError(f"no profile shapes of {name} in profile {profile_index}")
        return [Dims(shape) for shape in self._head["profiles"][profile_index][name]]

    @api
    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.__members__["STATIC"],
    ) -> IExecutionContext | None:
        return make(
            IExecutionContext, engine=self, label=self._label, managed=strategy.name == "USER_MANAGED", profile=0,
            shapes={}, addresses={}, memory=(0, 0), sized_for=None, running=[],
        )  # fmt: skip

    @api
    def create_engine_inspector(self) -> EngineInspector:
        return make(EngineInspector, engine=self)

    @property
    def _tensors(self) -> list[Tensor]:
        return [*self._graph.inputs, *self._graph.outputs]

    @property
    def _largest(self) -> list[dict[str, tuple[int, ...]]]:
        return [{name: shapes[2] for name, shapes in profile.items()} for profile in self._head["profiles"]]

    def _is_input(self, name: str) -> bool:
        return any(tensor.name == name for tensor in self._graph.inputs)

    def _find(self, name: str) -> Tensor | None:
        found = next((tensor for tensor in self._tensors if tensor.name == name), None)
        if found is None:
            self._error(f"Given invalid tensor name: {name}")
        return found

    def _error(self, text: str) -> None:
        recorder: IErrorRecorder | None = self.error_recorder
        self._voice.error(recorder, "INVALID_ARGUMENT", f"ICudaEngine: API Usage Error ({text})")


class EngineInspector(Strict):
    """Tells what an engine is made of."""

    @api
    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002
        head, tensors = self._engine._head, [tensor.name for tensor in self._engine._tensors]
        if format.name == "ONELINE":
            return "\n".join(head["layers"])
        detailed = head["verbosity"] == "DETAILED"
        layers = [{"Name": name, "LayerType": "double"} for name in head["layers"]] if detailed else head["layers"]
        return json.dumps({"Layers": layers, "Bindings" if major() < 11 else "I/O Tensors": tensors})


def _read(data: bytes) -> tuple[dict[str, Any], bytes]:
    if not data.startswith(PLAN):
        raise PlanError("Assertion failed: Magic tag does not match")
    sizes, rest = data[len(PLAN) : len(PLAN) + 12], data[len(PLAN) + 12 :]
    head, model = int.from_bytes(sizes[:4], "little"), int.from_bytes(sizes[4:], "little")
    if len(rest) != head + model:
        raise PlanError(f"Assertion bufferSize == {head + model} failed: {len(rest)}")
    return json.loads(rest[:head]), rest[head:]
