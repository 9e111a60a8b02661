"""Execution contexts: nothing happens where anything is missing, and the answer to that is False."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._base import Dims, Strict, api, attribute, held, unsigned
from ._graph import NUMPY, Graph, Shape, ShapeError
from ._log import IErrorRecorder
from ._scratch import ALIGNMENT, scratch_size
from ._testing import misuse, testing

TOKEN, GARBAGE = 0x5C, 0xC3
"""What lies in the scratch memory while an engine runs, and afterwards."""


class IExecutionContext(Strict):
    """One user of an engine, with its own shapes and addresses."""

    name = attribute("str", "")
    error_recorder = attribute("IErrorRecorder | None", check=held("the error recorder"))

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        return int(self._profile)

    @api
    def set_optimization_profile_async(self, profile_index: int, stream_handle: unsigned) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._fail(f"there is no optimization profile {profile_index}")
        self._profile, self._shapes, self._sized_for = profile_index, {}, None
        testing.device.enqueue(stream_handle, f"profile {profile_index}", lambda: None)
        return True

    @api
    def set_input_shape(self, name: str, shape: Dims) -> bool:
        tensor = next((tensor for tensor in self._graph.inputs if tensor.name == name), None)
        if tensor is None:
            return self._fail(f"{name} is no input")
        low, _, high = self._engine._head["profiles"][self._profile][name]
        sizes = tuple(shape)
        inside = len(sizes) == len(low) and all(a <= b <= c for a, b, c in zip(low, sizes, high, strict=True))
        if not inside:
            return self._fail(f"Set dimension {sizes} of {name} does not satisfy the profile: {low} to {high}")
        self._shapes[name] = sizes
        return True

    @api
    def infer_shapes(self) -> list[str]:
        missing = [tensor.name for tensor in self._graph.inputs if tensor.name not in self._all_shapes()]
        if not missing:
            try:
                self._graph.output_shapes(self._all_shapes())
            except ShapeError as error:
                self._fail(str(error))
                raise RuntimeError("infer_shapes error code: -1") from error
        return missing

    @api
    def get_tensor_shape(self, name: str) -> Dims:
        shapes = self._all_shapes()
        tensor = self._engine._find(name)
        if tensor is None or name in shapes:
            return Dims(shapes.get(name, ()))
        if self._engine._is_input(name) or len(shapes) < len(self._graph.inputs):
            return Dims(tensor.shape)
        try:
            return Dims(self._graph.output_shapes(shapes)[name])
        except ShapeError as error:
            self._fail(str(error))
            return Dims(tensor.shape)

    @api
    def set_tensor_address(self, name: str, memory: unsigned) -> bool:
        if self._engine._find(name) is None:
            return False
        if memory % ALIGNMENT:
            return self._fail(f"the address {memory:#x} of {name} is not aligned to {ALIGNMENT} bytes")
        self._addresses[name] = memory
        return True

    @api
    def get_tensor_address(self, name: str) -> int:
        return int(self._addresses.get(name, 0))

    @api
    def update_device_memory_size_for_shapes(self) -> int:
        shapes = self._all_shapes()
        if len(shapes) < len(self._graph.inputs):
            self._fail("all input shapes must be specified before the device memory is sized")
            return 0
        self._sized_for = shapes
        return scratch_size(shapes)

    @api
    def set_device_memory(self, memory: unsigned, size: int) -> None:
        if not self._managed:
            self._fail("setDeviceMemory needs a context that was created with USER_MANAGED")
        elif memory % ALIGNMENT or size < self._required():
            self._fail(f"device memory of {size} bytes at {memory:#x}: expected {self._required()}, aligned")
        else:
            self._memory = (memory, size)

    @api
    def execute_async_v3(self, stream_handle: unsigned) -> bool:
        if problem := self._unready(stream_handle):
            return self._fail(f"enqueueV3: {problem}")
        run = self._run(stream_handle)
        testing.device.enqueue(stream_handle, f"execute {self._label}", run.execute, run.spans())
        return True

    @property
    def _graph(self) -> Graph:
        graph: Graph = self._engine._graph
        return graph

    def _all_shapes(self) -> dict[str, Shape]:
        fixed = {tensor.name: tensor.shape for tensor in self._graph.inputs if not tensor.dynamic}
        return {**fixed, **self._shapes}

    def _required(self) -> int:
        """Less than the engine's largest only where the size was asked for at just these shapes."""
        shapes = self._all_shapes()
        return scratch_size(shapes) if self._sized_for == shapes else int(self._engine.device_memory_size_v2)

    def _unready(self, stream: int) -> str:
        shapes = self._all_shapes()
        missing = [tensor.name for tensor in self._graph.inputs if tensor.name not in shapes]
        if missing:
            return f"the shapes of {missing} are not set"
        try:
            self._graph.output_shapes(shapes)
        except ShapeError as error:
            return str(error)
        missing = [tensor.name for tensor in self._engine._tensors if not self._addresses.get(tensor.name)]
        if missing:
            return f"the addresses of {missing} are not set"
        if self._managed and self._memory[1] < self._required():
            return f"the device memory has {self._memory[1]} bytes: expected {self._required()}"
        return "there is no device" if testing.device is None else "no stream" if not stream else ""

    def _run(self, stream_handle: int) -> Run:
        shapes = self._all_shapes()
        every = {**shapes, **self._graph.output_shapes(shapes)}
        size = scratch_size(shapes) if self._managed else 0
        return Run(
            self._graph, shapes, every, dict(self._addresses), (self._memory[0], size), self._running, stream_handle
        )

    def _fail(self, text: str) -> bool:
        recorder: IErrorRecorder | None = self.error_recorder
        self._engine._voice.error(recorder, "INVALID_ARGUMENT", f"IExecutionContext: API Usage Error ({text})")
        return False


@dataclass(frozen=True)
class Run:
    """One execution with what was set when it was queued: later settings do not reach it."""

    graph: Graph
    shapes: dict[str, Shape]
    every: dict[str, Shape]
    addresses: dict[str, int]
    scratch: tuple[int, int]
    running: list[Run]
    """Of the same context; never more than one."""
    stream: int

    def spans(self) -> list[tuple[int, int]]:
        """All memory that is used."""
        return [*(self._span(tensor) for tensor in self._tensors()), *([self.scratch] if self.scratch[1] else [])]

    def execute(self) -> None:
        """Outputs first become garbage, so that one which overlaps an input shows; so does foreign scratch memory."""
        if self.running:
            misuse("a context runs twice at once, on two streams")
        self.running.append(self)
        self._fill(self.scratch, TOKEN)
        testing.run_rivals(self.stream)
        self.running.clear()
        if self.scratch[1] and (testing.device.from_address(*self.scratch) != TOKEN).any():
            misuse("the scratch memory was written by others while an engine ran")
        for tensor in self.graph.outputs:
            self._fill(self._span(tensor), GARBAGE)
        feeds = {tensor.name: self._read(tensor) for tensor in self.graph.inputs}
        try:
            values = self.graph.run(feeds)
        except Exception as error:  # such as an index out of range, which a GPU reads without a word
            misuse(f"ONNX Runtime refuses what the engine was given: {error}")
        for name, value in values.items():
            self._write(name, value)
        self._fill(self.scratch, GARBAGE)

    def _tensors(self) -> list[Any]:
        return [*self.graph.inputs, *self.graph.outputs]

    def _span(self, tensor: Any) -> tuple[int, int]:
        return self.addresses[tensor.name], tensor.nbytes(self.every[tensor.name])

    def _fill(self, span: tuple[int, int], value: int) -> None:
        if span[1]:
            testing.device.from_address(*span).fill(value)

    def _read(self, tensor: Any) -> Any:
        data = bytes(testing.device.from_address(*self._span(tensor)))
        return np.frombuffer(data, NUMPY[tensor.dtype.name]).reshape(self.every[tensor.name])

    def _write(self, name: str, value: Any) -> None:
        array = np.array(value, order="C")
        if array.shape != self.every[name]:
            misuse(f"{name} came out as {array.shape}, expected {self.every[name]}")
        testing.spoil(name, array)
        testing.device.from_address(self.addresses[name], array.nbytes)[...] = array.reshape(-1).view(np.uint8)
