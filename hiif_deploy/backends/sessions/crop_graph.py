"""The one graph that no bundle brings: a part of features, with zeros around it, cut where the features lie.

Written as ONNX's protobuf wire format by hand, because the runtime does not depend on the `onnx` package; a test reads
it with that package.
"""

from __future__ import annotations

from hiif_deploy.bundle.contract import ElementType, GraphContract, TensorContract

OPSET, IR_VERSION = 20, 10
ELEMENT_TYPES = {"float32": 1, "int64": 7, "float16": 10}
"""ONNX's numbers of element types."""
VARINT, BYTES = 0, 2
"""Wire types."""


def crop_contract(dtype: ElementType) -> GraphContract:
    """[1, C, h, w] features, `starts` and `ends` [2] and `axes` [2] of a slice, `pads` [8] → `crop`."""
    indices = tuple(TensorContract(name, "int64", (size,)) for name, size in _INDICES.items())
    shape: tuple[int | str, ...] = (1, "channels", "height", "width")
    inputs = (TensorContract("features", dtype, shape), *indices)
    outputs = (TensorContract("crop", dtype, (1, "channels", "rows", "columns")),)
    return GraphContract("crop", "", "", inputs, outputs)


def crop_model(dtype: ElementType) -> bytes:
    """The model of `crop_contract`."""
    contract = crop_contract(dtype)
    nodes = [
        _node("Slice", ["features", "starts", "ends", "axes"], "inside"),
        _node("Pad", ["inside", "pads"], "crop"),
    ]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"crop")
    graph += b"".join(_field(11, _value(tensor)) for tensor in contract.inputs)
    graph += b"".join(_field(12, _value(tensor)) for tensor in contract.outputs)
    opset = _field(1, b"") + _number(2, OPSET)
    return _number(1, IR_VERSION) + _field(7, graph) + _field(8, opset)


_INDICES = {"starts": 2, "ends": 2, "axes": 2, "pads": 8}


def _node(kind: str, inputs: list[str], output: str) -> bytes:
    names = b"".join(_field(1, name.encode()) for name in inputs)
    return names + _field(2, output.encode()) + _field(4, kind.encode())


def _value(tensor: TensorContract) -> bytes:
    sizes = (_field(2, size.encode()) if isinstance(size, str) else _number(1, size) for size in tensor.shape)
    shape = b"".join(_field(1, size) for size in sizes)
    kind = _number(1, ELEMENT_TYPES[tensor.dtype]) + _field(2, shape)
    return _field(1, tensor.name.encode()) + _field(2, _field(1, kind))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    parts = [value & 127]
    while value := value >> 7:
        parts.append(value & 127)
    return bytes(part | 128 for part in parts[:-1]) + bytes(parts[-1:])
