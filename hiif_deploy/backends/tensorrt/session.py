"""TensorRT as an engine: one serialised engine on a GPU, its contexts and its CUDA graphs. No PyTorch anywhere."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hiif_deploy.backends.cuda.device import Device, Stream
from hiif_deploy.backends.cuda.memory import DeviceTensor, Scratch
from hiif_deploy.backends.tensorrt.library import TYPE_NAMES, Library, Messages, type_name
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.errors import EngineError, EngineLoadError

if TYPE_CHECKING:
    import tensorrt as trt  # noqa: TID251 (for the type checker alone)

logger = logging.getLogger(__name__)
Tensors = Mapping[str, DeviceTensor]
Shapes = tuple[tuple[int, ...], ...]

MOST_CONTEXTS = 4
"""Contexts kept per engine, one per shape: whole blocks and the picture's last one, for two sizes."""
MOST_GRAPHS = 4
"""CUDA graphs kept per context, one per set of addresses."""


@dataclass
class _Context:
    """An execution context for one shape of every input."""

    native: trt.IExecutionContext
    """TensorRT's."""
    scratch_bytes: int
    """What it needs beside inputs and outputs."""
    graphs: OrderedDict[tuple[int, ...], Any] = field(default_factory=OrderedDict)
    """Addresses → captured graph; None after one plain run with them."""


class TrtSession:
    """One graph's engine. Work is queued on a stream; addresses stay the caller's. One thread at a time."""

    def __init__(
        self, library: Library, graph: GraphContract, data: bytes, device: Device, scratch: Scratch,
        *, host_code: bool = False,
    ) -> None:  # fmt: skip
        """EngineError where the engine does not load here, or is not of that graph. `scratch` is shared by all.

        `host_code` lets the engine bring code of its own, as version-compatible ones do: for trusted engines only.
        """
        self.graph = graph
        self._library, self._device, self._scratch = library, device, scratch
        self._messages = Messages(library)
        self._runtime: trt.Runtime = library.module.Runtime(self._messages.logger)
        self._runtime.error_recorder = self._messages.recorder
        self._runtime.engine_host_code_allowed = host_code
        self._contexts: OrderedDict[Shapes, _Context] = OrderedDict()
        # TensorRT-RTX compiles kernels while it runs, and has a graph strategy of its own: nothing of it is captured.
        self._has_graphs = device.has_graphs and library.name == "tensorrt"
        engine: trt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise EngineLoadError(
                graph.name,
                f"graph {graph.key}: {library.name} {library.version} does not load this engine "
                f"({self._messages.reason()}); build it again with hiif-deploy build",
            )
        self._engine: trt.ICudaEngine = engine
        _compare(library, graph, self._engine)
        self.limits = {tensor.name: self._limits(tensor.name) for tensor in graph.inputs}
        """Input name → smallest shape, the one that the engine is optimised for, and the largest."""

    def enqueue(self, tensors: Tensors, stream: Stream) -> None:
        """Queue one run; `tensors` holds every input and output. EngineError for what the engine refuses.

        The second run with the same shapes and addresses is captured as a CUDA graph, later ones launch it.
        """
        context = self._context(tensors, stream)
        addresses = (*(tensors[name].address for name in self._names), self._scratch.address)
        graph = context.graphs.get(addresses)
        if graph is not None:
            context.graphs.move_to_end(addresses)
            self._device.launch(graph, stream)
            return
        self._bind(context, tensors)
        if not self._has_graphs or addresses not in context.graphs:
            self._execute(context, stream)
            self._remember(context, addresses, None)
            return
        graph = self._capture(context, stream)
        if graph is None:
            self._execute(context, stream)
        else:
            self._remember(context, addresses, graph)
            self._device.launch(graph, stream)

    def close(self) -> None:
        """Free graphs and contexts. All queued work must be done."""
        while self._contexts:
            self._drop(self._contexts.popitem()[1])

    @property
    def _names(self) -> list[str]:
        return [tensor.name for tensor in (*self.graph.inputs, *self.graph.outputs)]

    def _limits(self, name: str) -> Shapes:
        return tuple(tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))

    def _context(self, tensors: Tensors, stream: Stream) -> _Context:
        shapes = tuple(tensors[tensor.name].shape for tensor in self.graph.inputs)
        context = self._contexts.get(shapes)
        if context is None:
            context = self._new_context(tensors, stream)
            if len(self._contexts) >= MOST_CONTEXTS:
                self._device.synchronize(stream)
                self._drop(self._contexts.popitem(last=False)[1])
            self._contexts[shapes] = context
        self._contexts.move_to_end(shapes)
        self._scratch.reserve(context.scratch_bytes)
        return context

    def _new_context(self, tensors: Tensors, stream: Stream) -> _Context:
        if TYPE_CHECKING:
            import tensorrt as trt  # noqa: TID251 (for the type checker alone)
        else:
            trt = self._library.module
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        native = self._engine.create_execution_context(strategy)
        if native is None:
            raise self._failure("has no context")
        self._require(native.set_optimization_profile_async(0, stream.handle), "its profile was refused")
        for tensor in self.graph.inputs:
            shape = tensors[tensor.name].shape
            if not native.set_input_shape(tensor.name, shape):
                low, _, high = self.limits[tensor.name]
                raise self._failure(f"takes {tensor.name} from {low} to {high}, got {shape}")
        missing = native.infer_shapes()
        if missing:
            raise self._failure(f"lacks {', '.join(missing)}")
        for tensor in self.graph.outputs:
            found = tuple(native.get_tensor_shape(tensor.name))
            if found != tensors[tensor.name].shape:
                raise self._failure(f"answers {tensor.name} as {found}, expected {tensors[tensor.name].shape}")
        size = native.update_device_memory_size_for_shapes()
        # 0 is also the answer to an error; an engine that never needs memory says so by itself.
        self._require(size > 0 or self._engine.device_memory_size_v2 == 0, "the size of its memory cannot be told")
        return _Context(native, size)

    def _bind(self, context: _Context, tensors: Tensors) -> None:
        for name in self._names:
            done = context.native.set_tensor_address(name, tensors[name].address)
            self._require(done, f"the address of {name} was refused")
        if context.scratch_bytes:
            context.native.set_device_memory(self._scratch.address, self._scratch.size)

    def _execute(self, context: _Context, stream: Stream) -> None:
        self._require(context.native.execute_async_v3(stream.handle), "the run was refused")

    def _capture(self, context: _Context, stream: Stream) -> Any:
        try:
            return self._device.capture(stream, lambda: self._execute(context, stream))
        except EngineError as error:
            self._has_graphs = False
            logger.warning(
                "graph %s: no CUDA graph (%s); each block is launched by itself, slower", self.graph.key, error
            )
            return None

    def _remember(self, context: _Context, addresses: tuple[int, ...], graph: Any) -> None:
        context.graphs[addresses] = graph
        if len(context.graphs) > MOST_GRAPHS:
            oldest = context.graphs.popitem(last=False)[1]
            if oldest is not None:
                self._device.free_graph(oldest)

    def _drop(self, context: _Context) -> None:
        for graph in context.graphs.values():
            if graph is not None:
                self._device.free_graph(graph)

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
