"""A stand-in for a Triton server: its Python module `triton_python_backend_utils`, calls answered by ONNX Runtime.

It implements what the emitted model uses, with the real names and keywords, and refuses what the server would refuse:
tensors that the called model's config.pbtxt does not describe.
"""

from __future__ import annotations

import importlib.util
import json
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

KINDS = {"TYPE_FP16": "float16", "TYPE_FP32": "float32", "TYPE_INT32": "int32", "TYPE_UINT8": "uint8"}


@cache
def _schema() -> Any:
    """Triton's own protobuf schema of config.pbtxt, without the gRPC package beside it."""
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs tritonclient, which carries Triton's schema of config.pbtxt")
    return load_module("model_config_pb2", Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py")


def read_config(path: Path) -> Any:
    """A config.pbtxt, parsed and checked by Triton's schema."""
    from google.protobuf import text_format

    return text_format.Parse(path.read_text(encoding="utf-8"), _schema().ModelConfig())


def load_module(name: str, path: Path) -> Any:
    """A Python file as a module, outside sys.modules."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tensor:
    """Named array."""

    def __init__(self, name: str, values: NDArray[Any]) -> None:
        assert isinstance(values, np.ndarray)
        assert values.flags.c_contiguous
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        # What the server hands out is its own memory: read-only here, so that nobody builds on it.
        view = self._values.view()
        view.flags.writeable = False
        return view


class TritonError:
    def __init__(self, message: str) -> None:
        self._message = message

    def message(self) -> str:
        return self._message


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self._tensors, self._error = output_tensors or [], error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors


class PreferredMemory:
    def __init__(self, preferred_memory_type: int, preferred_device_id: int = 0) -> None:
        assert (preferred_memory_type, preferred_device_id) == (1, 0)


class Server:
    """A model repository whose ONNX files are served; `calls` records which model was asked."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.calls: list[str] = []
        self.profiles: dict[str, Any] = {}
        """Name of a model → profile of its engine: calls beyond it are refused, as TensorRT does."""
        self.broken: str | None = None
        """Name of a model that answers with an error."""
        self.spoiled: str | None = None
        """Name of a model whose answers are no numbers."""
        self._sessions: dict[str, ort.InferenceSession] = {}

    def module(self) -> types.ModuleType:
        """`triton_python_backend_utils`."""
        made: Any = types.ModuleType("triton_python_backend_utils")
        made.Tensor, made.TritonError = Tensor, TritonError
        made.InferenceResponse, made.PreferredMemory = InferenceResponse, PreferredMemory
        made.TRITONSERVER_MEMORY_CPU = 1
        made.InferenceRequest = self._request_class()
        made.get_input_tensor_by_name = lambda request, name: next((t for t in request if t.name() == name), None)
        module: types.ModuleType = made
        return module

    def front(self, name: str) -> Any:
        """The Python model NAME, initialised as the server does it."""
        model = load_module(f"{name}_model", self.repository / name / "1" / "model.py").TritonPythonModel()
        config = read_config(self.repository / name / "config.pbtxt")
        parameters = {key: {"string_value": value.string_value} for key, value in config.parameters.items()}
        model.initialize({
            "model_name": name,
            "model_config": json.dumps({"name": name, "parameters": parameters}),
            "model_repository": str(self.repository / name),
            "model_version": "1",
        })  # fmt: skip
        return model

    def _request_class(self) -> Callable[..., Any]:
        server = self

        class InferenceRequest:
            def __init__(
                self, *, model_name: str, requested_output_names: list[str], inputs: list[Tensor], preferred_memory: Any
            ) -> None:
                assert isinstance(preferred_memory, PreferredMemory)
                self.model, self.outputs, self.inputs = model_name, requested_output_names, inputs

            def exec(self) -> InferenceResponse:
                return server._answer(self.model, self.outputs, self.inputs)

        return InferenceRequest

    def _answer(self, model: str, outputs: list[str], inputs: list[Tensor]) -> InferenceResponse:
        self.calls.append(model)
        if model == self.broken:
            return InferenceResponse(error=TritonError("out of memory"))
        config = read_config(self.repository / model / "config.pbtxt")
        problems = [*_mismatches(config.input, inputs), *_beyond(self.profiles.get(model, {}), inputs)]
        if problems:
            return InferenceResponse(error=TritonError(problems[0]))
        session = self._session(model)
        values = session.run(outputs, {tensor.name(): tensor.as_numpy() for tensor in inputs})
        if model == self.spoiled:
            values = [np.full_like(value, np.nan) for value in values]
        answered = [Tensor(name, value) for name, value in zip(outputs, values, strict=True)]
        assert not list(_mismatches(config.output, answered))
        return InferenceResponse(answered)

    def _session(self, model: str) -> ort.InferenceSession:
        if model not in self._sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            (path,) = (self.repository / model / "1").iterdir()
            # What plays a plan is an ONNX file, too.
            self._sessions[model] = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        return self._sessions[model]


def _mismatches(described: Any, tensors: list[Tensor]) -> Iterator[str]:
    by_name = {tensor.name(): tensor.as_numpy() for tensor in tensors}
    if by_name.keys() != {entry.name for entry in described}:
        yield f"got {sorted(by_name)}"
        return
    for entry in described:
        values = by_name[entry.name]
        kind = KINDS[
            type(entry).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[entry.data_type].name
        ]
        fits = len(entry.dims) == values.ndim and all(
            d in (-1, n) for d, n in zip(entry.dims, values.shape, strict=True)
        )
        if str(values.dtype) != kind or not fits:
            yield f"{entry.name} is {values.dtype} {values.shape}, expected {kind} {list(entry.dims)}"


def _beyond(profile: Any, tensors: list[Tensor]) -> Iterator[str]:
    for tensor in tensors:
        shape = tensor.as_numpy().shape
        bounds = profile.get(tensor.name())
        if bounds and not all(low <= n <= high for low, n, high in zip(bounds.min, shape, bounds.max, strict=True)):
            yield f"{tensor.name()} is {shape}, the profile ranges from {bounds.min} to {bounds.max}"
