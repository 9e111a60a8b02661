"""An ONNX graph as the library sees it: tensors of TensorRT's types, shapes, and ONNX Runtime to compute it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from ._enums import DataType

TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.DOUBLE: "FLOAT",  # narrowed without a word, as the real parser does
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}
"""ONNX element type → DataType's name."""
NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
"""DataType's name → what lies in memory."""
ONNX_NUMPY = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
"""Where the graph computes in another type than its tensors have in TensorRT."""

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


class ShapeError(Exception):
    """Shapes that contradict each other or the graph."""


@dataclass(frozen=True)
class Tensor:
    """An input or output."""

    name: str
    dtype: Any
    """A DataType."""
    axes: tuple[int | str, ...]
    """Sizes; names of dynamic axes, empty where they have none."""

    @property
    def shape(self) -> Shape:
        """With -1 for dynamic axes."""
        return tuple(axis if isinstance(axis, int) else -1 for axis in self.axes)

    @property
    def dynamic(self) -> bool:
        """Whether any size is open."""
        return -1 in self.shape

    def nbytes(self, shape: Shape) -> int:
        """Bytes of this tensor at that shape."""
        return math.prod(shape) * int(self.dtype.itemsize)


def tensor_of(info: onnx.ValueInfoProto) -> Tensor:
    """KeyError for an element type that TensorRT lacks."""
    kind = info.type.tensor_type
    axes = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim)
    return Tensor(info.name, DataType.__members__[TYPES[kind.elem_type]], axes)


class Graph:
    """A parsed model."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.proto = onnx.load_model_from_string(model)
        initial = {tensor.name for tensor in self.proto.graph.initializer}
        self.inputs = [tensor_of(info) for info in self.proto.graph.input if info.name not in initial]
        self.outputs = [tensor_of(info) for info in self.proto.graph.output]
        self._known: dict[tuple[tuple[str, Shape], ...], dict[str, Shape]] = {}

    def output_shapes(self, inputs: Shapes) -> dict[str, Shape]:
        """For all inputs' shapes; ShapeError where axes of one name differ, or nothing follows."""
        key = tuple(sorted(inputs.items()))
        if key not in self._known:
            self._known[key] = self._infer(inputs)
        return self._known[key]

    def _infer(self, inputs: Shapes) -> dict[str, Shape]:
        sizes = self._named_axes(inputs)
        named = {t.name: tuple(sizes.get(a, -1) if isinstance(a, str) else a for a in t.axes) for t in self.outputs}
        if all(-1 not in shape for shape in named.values()):
            return named
        return self._infer_by_onnx(inputs)

    def _named_axes(self, inputs: Shapes) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for tensor in self.inputs:
            for axis, size in zip(tensor.axes, inputs[tensor.name], strict=True):
                if isinstance(axis, str) and axis and sizes.setdefault(axis, size) != size:
                    raise ShapeError(f"dimension {axis} is {sizes[axis]} and, in {tensor.name}, {size}")
        return sizes

    def _infer_by_onnx(self, inputs: Shapes) -> dict[str, Shape]:
        model = onnx.load_model_from_string(self.model)
        for info in [*model.graph.input, *model.graph.output]:
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                if info.name in inputs:
                    dim.dim_value = inputs[info.name][axis]
                elif dim.HasField("dim_param"):
                    dim.Clear()
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise ShapeError(str(error).splitlines()[0]) from error
        shapes = {info.name: tensor_of(info).shape for info in inferred.graph.output}
        if any(-1 in shape for shape in shapes.values()):
            raise ShapeError(f"output shapes {shapes} do not follow from {dict(inputs)}")
        return shapes

    @cached_property
    def session(self) -> ort.InferenceSession:
        """One thread, so that answers repeat."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return ort.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs in TensorRT's types."""
        kinds = {node.name: ONNX_NUMPY.get(node.type) for node in self.session.get_inputs()}
        feeds = {n: a if kinds[n] is None else a.astype(kinds[n], copy=False) for n, a in inputs.items()}
        values = self.session.run([tensor.name for tensor in self.outputs], feeds)
        return {t.name: v.astype(NUMPY[t.dtype.name], copy=False) for t, v in zip(self.outputs, values, strict=True)}
