"""Exports one graph as an ONNX model, and checks the result."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import onnx
import torch
from torch import Tensor

from hiif_deploy.bundle.contract import TensorContract
from hiif_deploy.errors import ParityError
from hiif_export.graphs.graph import Graph

OPSET = 20
"""Has Gelu and LayerNormalization; ONNX Runtime and TensorRT 10.13 to 11 both read it."""
DTYPES: dict[torch.dtype, Literal["float16", "float32", "float64", "int32"]] = {
    torch.float16: "float16", torch.float32: "float32", torch.float64: "float64", torch.int32: "int32",
}  # fmt: skip
"""PyTorch dtype → name in the contract."""


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """Return the graph as a checked ONNX model with the names and dynamic axes of `graph`."""
    tensors = [tensor for tensor, _ in graph.inputs.values()]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.module,
            tuple(tensors),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=_dynamic_shapes(graph),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _name_axes(model, graph)
    _drop_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def tensor_contracts(graph: Graph) -> tuple[tuple[TensorContract, ...], tuple[TensorContract, ...]]:
    """Return inputs and outputs as the bundle's contract lists them."""
    inputs = [TensorContract(name, DTYPES[t.dtype], shape) for name, (t, shape) in graph.inputs.items()]
    outputs = zip(graph.outputs.items(), example_outputs(graph), strict=True)
    return tuple(inputs), tuple(TensorContract(name, DTYPES[t.dtype], shape) for (name, shape), t in outputs)


def _dynamic_shapes(graph: Graph) -> tuple[Any, ...]:
    # torch.export takes the tail of a module with *args as one nested tuple.
    specs = [
        {n: _axis(size, graph) for n, size in enumerate(shape) if isinstance(size, str)} or None
        for _, shape in graph.inputs.values()
    ]
    named = graph.module.forward.__code__.co_argcount - 1
    has_tail = bool(graph.module.forward.__code__.co_flags & 0x04)
    return (*specs[:named], tuple(specs[named:])) if has_tail and specs[named:] else tuple(specs)


def _axis(name: str, graph: Graph) -> Any:
    multiple = graph.multiples.get(name, 1)
    return torch.export.Dim.DYNAMIC if multiple == 1 else multiple * torch.export.Dim(f"{name}_parts")


def _name_axes(model: onnx.ModelProto, graph: Graph) -> None:
    """Give dynamic axes readable names, for Netron; ParityError where the exporter froze one."""
    wanted = {**{n: shape for n, (_, shape) in graph.inputs.items()}, **graph.outputs}
    for value in (*model.graph.input, *model.graph.output):
        for size, axis in zip(wanted[value.name], value.type.tensor_type.shape.dim, strict=True):
            is_frozen = axis.WhichOneof("value") == "dim_value"
            if isinstance(size, str):
                if is_frozen and value in model.graph.input:
                    raise ParityError(f"graph {graph.name}: axis {size} of {value.name} was frozen at {axis.dim_value}")
                axis.dim_param = size
            elif not is_frozen:
                axis.dim_value = size


def _drop_metadata(model: onnx.ModelProto) -> None:
    """Remove source paths and stack traces, which the exporter writes about its own machine."""
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.value_info[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings, which concern its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def example_outputs(graph: Graph) -> tuple[Tensor, ...]:
    """Run the module on the example inputs and return its outputs, each [...] as `graph.outputs` declares."""
    with torch.no_grad():
        value = graph.module(*(tensor for tensor, _ in graph.inputs.values()))
    return value if isinstance(value, tuple) else (value,)
