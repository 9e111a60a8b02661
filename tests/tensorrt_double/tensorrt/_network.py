"""The ONNX parser and the network that it fills: one layer per node and per weight, with inferred types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ._base import Buffer, Dims, Held, Strict, api, attribute, make
from ._enums import DataType, ErrorCode, LayerType, NetworkDefinitionCreationFlag
from ._graph import TYPES, Tensor, tensor_of
from ._log import ILogger, Voice

LAYERS = {
    "CONVOLUTION": "Conv", "DECONVOLUTION": "ConvTranspose", "MATRIX_MULTIPLY": "Gemm MatMul", "CAST": "Cast",
    "CONSTANT": "Constant", "CONCATENATION": "Concat", "GATHER": "Gather GatherElements GatherND",
    "ACTIVATION": "Clip Elu Gelu HardSigmoid LeakyRelu Relu Selu Sigmoid Softplus Softsign Tanh",
    "ELEMENTWISE": "Add And BitShift Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Or Pow Sub Xor",
    "UNARY": "Abs Ceil Cos Erf Exp Floor IsInf IsNaN Log Neg Not Reciprocal Round Sign Sin Sqrt",
    "SHUFFLE": "DepthToSpace Flatten Identity Reshape SpaceToDepth Transpose", "SQUEEZE": "Squeeze",
    "UNSQUEEZE": "Unsqueeze", "NORMALIZATION": "BatchNormalization InstanceNormalization LayerNormalization",
    "REDUCE": "GlobalAveragePool ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
    "POOLING": "AveragePool MaxPool", "SLICE": "Expand Pad Slice Split Tile", "SHAPE": "Shape Size",
    "FILL": "ConstantOfShape Range", "SELECT": "Where", "RESIZE": "Resize", "SOFTMAX": "Softmax LogSoftmax",
    "SCATTER": "ScatterElements ScatterND", "EINSUM": "Einsum", "CONDITION": "If", "TOPK": "ArgMax ArgMin TopK",
    "PARAMETRIC_RELU": "PRelu", "CUMULATIVE": "CumSum",
}  # fmt: skip
"""LayerType's name → ONNX operators of which the real parser makes such a layer, among others."""
LAYER_OF = {operator: layer for layer, operators in LAYERS.items() for operator in operators.split()}


class ITensor(Strict):
    """A tensor of the network."""

    name = attribute("str", "")

    @property
    def dtype(self) -> Any:
        return self._tensor.dtype

    @property
    def shape(self) -> Dims:
        return Dims(self._tensor.shape)


class ILayer(Strict):
    """A layer of the network."""

    name = attribute("str", "")

    @property
    def type(self) -> Any:
        return LayerType.__members__[self._type]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @api
    def get_input(self, index: int) -> ITensor | None:
        return _at(self._inputs, index)

    @api
    def get_output(self, index: int) -> ITensor | None:
        return _at(self._outputs, index)


class INetworkDefinition(Strict):
    """What is built."""

    name = attribute("str", "")

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @api
    def get_layer(self, index: int) -> ILayer | None:
        return _at(self._layers, index)

    @api
    def get_input(self, index: int) -> ITensor | None:
        return _at(self._inputs, index)

    @api
    def get_output(self, index: int) -> ITensor | None:
        return _at(self._outputs, index)

    @api
    def get_flag(self, flag: NetworkDefinitionCreationFlag) -> bool:
        return bool(self._flags >> int(flag) & 1)


class ParserError(Strict):
    """What went wrong, and at which node."""

    def code(self) -> Any:
        return getattr(ErrorCode, self._code)

    def desc(self) -> str:
        return str(self._desc)

    def file(self) -> str:
        return "double.cpp"

    def func(self) -> str:
        return "parse"

    def line(self) -> int:
        return 1

    def node(self) -> int:
        return int(self._node)

    def node_name(self) -> str:
        return str(self._node_name)

    def node_operator(self) -> str:
        return str(self._node_operator)

    def __str__(self) -> str:
        place = f"In node {self._node} with name: {self._node_name} and operator: {self._node_operator} "
        return f"{place}(parse): {self._code}: {self._desc}"


class OnnxParser(Strict):
    """Fills a network from an ONNX file, once."""

    @api
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = Held(network, "the parser's network")
        self._voice = Voice(logger)
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    @api
    def get_error(self, index: int) -> ParserError | None:
        return _at(self._errors, index)

    @api
    def clear_errors(self) -> None:
        self._errors.clear()

    @api
    def parse(self, model: Buffer, path: str | None = None) -> bool:
        return self._parse(bytes(model), None if path is None else Path(path).parent)

    @api
    def parse_from_file(self, model: str) -> bool:
        if not Path(model).is_file():
            return self._fail("INVALID_VALUE", f"Input file cannot be found, or is not a regular file: {model}")
        return self._parse(Path(model).read_bytes(), Path(model).parent)

    def _parse(self, data: bytes, folder: Path | None) -> bool:
        network = self._network()
        if network._model is not None:
            return self._fail("MODEL_DESERIALIZE_FAILED", "Assertion failed: A model was previously parsed!")
        try:
            model = onnx.load_model_from_string(data)
        except DecodeError:
            return self._fail("MODEL_DESERIALIZE_FAILED", "Assertion failed: Failed to parse the ONNX model.")
        try:
            # Without a folder, files beside the model are looked for in the working directory.
            onnx.load_external_data_for_model(model, str(folder or Path()))
        except (OSError, onnx.checker.ValidationError, ValueError) as error:
            return self._fail("INVALID_GRAPH", f"Failed to import initializer: {error}")
        return self._check_nodes(model) and self._fill(network, model)

    def _check_nodes(self, model: onnx.ModelProto) -> bool:
        graph = model.graph
        known = {"", *(i.name for i in graph.input), *(i.name for i in graph.initializer)}
        for number, node in enumerate(graph.node):
            if not known.issuperset(node.input):
                return self._fail("INVALID_GRAPH", "Assertion failed: Node input was not registered.", number, node)
            if node.op_type not in LAYER_OF:
                return self._fail("INVALID_NODE", f"Plugin not found: {node.op_type}", number, node)
            known.update(node.output)
        return True

    def _fill(self, network: INetworkDefinition, model: onnx.ModelProto) -> bool:
        if not model.graph.node and not model.graph.output:
            return True
        try:
            inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
            tensors = _tensors(inferred.graph)
        except (onnx.shape_inference.InferenceError, KeyError) as error:
            return self._fail("INVALID_NODE", f"Invalid Node - {error}")
        handles = {name: _handle(tensor) for name, tensor in tensors.items()}
        initial = [w.name for w in model.graph.initializer]
        network._layers += [_layer("CONSTANT", name, [], [handles[name]]) for name in initial]
        for node in model.graph.node:
            sides = [[handles[n] for n in names if n in handles] for names in (node.input, node.output)]
            network._layers.append(_layer(LAYER_OF[node.op_type], node.name or f"node_of_{node.output[0]}", *sides))
        network._inputs += [handles[i.name] for i in model.graph.input if i.name not in initial]
        network._outputs += [handles[i.name] for i in model.graph.output]
        network._model = model.SerializeToString()
        return True

    def _fail(self, code: str, what: str, number: int = -1, node: onnx.NodeProto | None = None) -> bool:
        name, operator = (node.name, node.op_type) if node else ("", "")
        self._errors.append(
            make(ParserError, code=code, desc=what, node=number, node_name=name, node_operator=operator)
        )
        self._voice.log("ERROR", str(self._errors[-1]))
        return False


def _tensors(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """Of every name whose type is known; optional outputs have none."""
    found = {info.name: tensor_of(info) for info in [*graph.input, *graph.value_info, *graph.output]}
    for weight in graph.initializer:
        found[weight.name] = Tensor(weight.name, DataType.__members__[TYPES[weight.data_type]], tuple(weight.dims))
    return found


def _handle(tensor: Tensor) -> ITensor:
    return make(ITensor, tensor=tensor, name=tensor.name)


def _layer(kind: str, name: str, inputs: list[ITensor], outputs: list[ITensor]) -> ILayer:
    return make(ILayer, type=kind, name=name, inputs=inputs, outputs=outputs)


def _at(items: list[Any], index: int) -> Any:
    """None beyond the end and before the start, as the bindings answer."""
    return items[index] if 0 <= index < len(items) else None
