"""TensorRT as an engine: one serialised engine on a GPU and its execution context. No PyTorch anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hiif_deploy.backends.cuda.memory import DeviceTensor
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.tensorrt.library import TYPE_NAMES, Library, Messages, type_name
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.errors import EngineError, EngineLoadError

if TYPE_CHECKING:
    import tensorrt as trt  # noqa: TID251 (for the type checker alone)

Tensors = Mapping[str, DeviceTensor]
Shapes = tuple[tuple[int, ...], ...]


class TrtSession:
    """One graph's engine. One thread at a time."""

    def __init__(self, library: Library, graph: GraphContract, data: bytes, gpu: Gpu) -> None:
        """EngineError where the engine does not load here, or is not of that graph."""
        if TYPE_CHECKING:
            import tensorrt as trt  # noqa: TID251 (for the type checker alone)
        else:
            trt = library.module
        self.graph, self._gpu = graph, gpu
        self._messages = Messages(library)
        self._runtime = trt.Runtime(self._messages.logger)
        self._runtime.error_recorder = self._messages.recorder
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineLoadError(
                graph.name,
                f"graph {graph.key}: {library.name} {library.version} does not load this engine "
                f"({self._messages.reason()}); build it again with hiif-deploy build",
            )
        self._engine = engine
        _compare(library, graph, engine)
        self.limits = {tensor.name: self._limits(tensor.name) for tensor in graph.inputs}
        """Input name → smallest shape, the one that the engine is optimised for, and the largest."""
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self._failure("has no context")
        self._context = context
        self._shapes: Shapes | None = None
        self._scratch_bytes = 0

    def enqueue(self, tensors: Tensors) -> None:
        """Queue one run; `tensors` holds every input and output. EngineError for what the engine refuses."""
        shapes = tuple(tensors[tensor.name].shape for tensor in self.graph.inputs)
        if shapes != self._shapes:
            # Until all of them are set, none counts as set.
            self._shapes = None
            self._scratch_bytes = self._set_shapes(tensors)
            self._shapes = shapes
        for tensor in (*self.graph.inputs, *self.graph.outputs):
            done = self._context.set_tensor_address(tensor.name, tensors[tensor.name].address)
            self._require(done, f"the address of {tensor.name} was refused")
        if self._scratch_bytes:
            scratch = self._gpu.scratch(self._scratch_bytes)
            self._context.set_device_memory(scratch.address, scratch.nbytes)
        self._require(self._context.execute_async_v3(self._gpu.compute), "the run was refused")

    def _limits(self, name: str) -> Shapes:
        return tuple(tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))

    def _set_shapes(self, tensors: Tensors) -> int:
        """Set the shapes of all inputs, and check those of the outputs; bytes of scratch memory that they need."""
        for tensor in self.graph.inputs:
            shape = tensors[tensor.name].shape
            if not self._context.set_input_shape(tensor.name, shape):
                low, _, high = self.limits[tensor.name]
                raise self._failure(f"takes {tensor.name} from {low} to {high}, got {shape}")
        missing = self._context.infer_shapes()
        if missing:
            raise self._failure(f"lacks {', '.join(missing)}")
        for tensor in self.graph.outputs:
            found = tuple(self._context.get_tensor_shape(tensor.name))
            if found != tensors[tensor.name].shape:
                raise self._failure(f"answers {tensor.name} as {found}, expected {tensors[tensor.name].shape}")
        size = int(self._context.update_device_memory_size_for_shapes())
        # 0 is also the answer to an error; an engine that never needs memory says so by itself.
        self._require(size > 0 or self._engine.device_memory_size_v2 == 0, "the size of its memory cannot be told")
        return size

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise self._failure(what)

    def _failure(self, what: str) -> EngineError:
        reason = self._messages.reason("")
        return EngineError(f"engine of graph {self.graph.key}: {what}{f' ({reason})' if reason else ''}")


def _compare(library: Library, graph: GraphContract, engine: trt.ICudaEngine) -> None:
    """EngineError where an engine's inputs and outputs are not those that the contract promises."""
    modes = library.module.TensorIOMode
    found = {}
    for n in range(engine.num_io_tensors):
        name = engine.get_tensor_name(n)
        dtype = type_name(engine.get_tensor_dtype(name))
        found[name] = (engine.get_tensor_mode(name) == modes.INPUT, dtype)
    promised = {tensor.name: (True, TYPE_NAMES[tensor.dtype]) for tensor in graph.inputs}
    promised |= {tensor.name: (False, TYPE_NAMES[tensor.dtype]) for tensor in graph.outputs}
    if found != promised:
        wrong = sorted(name for name in found.keys() | promised.keys() if found.get(name) != promised.get(name))
        raise EngineLoadError(
            graph.name,
            f"engine of graph {graph.key}: its tensors differ from the contract ({', '.join(wrong)}); build it again",
        )
