"""Checks an ONNX file from its bytes, before any engine parses it: what it may hold, and that it reads no other file.

A walk over protobuf's wire format, written by hand because the runtime does not depend on the `onnx` package. It is
stricter than protobuf: what a serialiser never writes is refused, so that no engine sees more in a file than this does.
"""

from collections.abc import Iterator

from hiif_deploy.errors import BundleError

OPERATORS = frozenset({
    "Abs", "Add", "And", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Cos", "Div", "Equal", "Gather", "Gelu",
    "Gemm", "Greater", "LayerNormalization", "LeakyRelu", "Less", "MatMul", "Min", "Mul", "Or", "PRelu", "Pad", "Pow",
    "Range", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Sign", "Sin", "Slice",
    "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""All that `hiif-deploy export` writes, for every decoder and encoder; none of them holds a sub-graph."""

MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
}
"""Message → field → the message that it holds, by the field numbers of onnx.proto."""
REFUSED: dict[tuple[str, int], str] = {
    ("model", 20): "training information",
    ("model", 25): "functions",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "a sub-graph",
    ("attribute", 11): "sub-graphs",
    ("attribute", 22): "a sparse tensor",
    ("attribute", 23): "sparse tensors",
    # An engine that loads a model from bytes looks for such a file in the current directory.
    ("tensor", 13): "external data, which would be read from another file",
    ("tensor", 14): "external data, which would be read from another file",
}
"""(message, field) → what it is; `hiif-deploy export` writes none of them."""
SINGULAR: dict[str, frozenset[int]] = {
    "model": frozenset({1, 2, 3, 4, 5, 6, 7}),
    "graph": frozenset({2, 10}),
    "node": frozenset({3, 4, 6, 7, 8}),
    "attribute": frozenset({1, 2, 3, 4, 5, 6, 13, 14, 20, 21, 22}),
    "tensor": frozenset({2, 3, 8, 9, 12, 14}),
}
"""Fields that a message holds once. Of several, protobuf merges messages and takes the last of anything else, so a
check of each by itself would see another model than the engine."""
GRAPH = 7
"""Field of a model."""
INPUTS, OPERATOR, DOMAIN = 1, 4, 7
"""Fields of a node."""
TENSOR_NAME = 8
"""Field of a tensor."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types; the two others, groups, are long out of use."""
TEXTS: dict[str, frozenset[int]] = {"node": frozenset({INPUTS, OPERATOR, DOMAIN}), "tensor": frozenset({TENSOR_NAME})}
"""Fields whose text is checked."""


def check_model(key: str, model: bytes) -> None:
    """BundleError naming graph `key` for a model with external data, or with parts that an export never has."""
    try:
        if not any(number == GRAPH for number, _, _ in _fields(memoryview(model))):
            raise ValueError("no graph")
        _check(key, "model", memoryview(model), set())
    except (ValueError, IndexError) as error:
        raise BundleError(f"graph {key}: its file is no ONNX model ({error}); export the bundle again") from error


def _check(key: str, kind: str, data: memoryview, constants: set[str]) -> None:
    """One message and what it holds; `constants` gathers the names of tensors that no input reaches."""
    inner = MESSAGES.get(kind, {})
    fields = list(_fields(data))
    found: set[int] = set()
    for number, wire, value in fields:
        what = REFUSED.get((kind, number))
        if what is not None and not (wire == VARINT and value == 0):
            raise _refusal(key, what)
        if number in found & SINGULAR.get(kind, set()):
            raise _refusal(key, f"field {number} of {kind} twice")
        if wire != BYTES and (number in inner or number in TEXTS.get(kind, ())):
            # protobuf would skip it as unknown, and the check of the nodes would count it.
            raise ValueError(f"field {number} of a {kind} has wire type {wire}")
        found.add(number)
    # Weights stand behind the nodes that read them.
    for number, _, value in sorted(fields, key=lambda field: -field[0]) if kind == "graph" else fields:
        if number in inner and isinstance(value, memoryview):
            _check(key, inner[number], value, constants)
    if kind == "node":
        _check_node(key, fields, constants)
    elif kind == "tensor":
        constants |= set(_texts(fields, TENSOR_NAME))


Field = tuple[int, int, "int | memoryview"]


def _check_node(key: str, fields: list[Field], constants: set[str]) -> None:
    for operator in _texts(fields, OPERATOR) or [""]:
        if operator not in OPERATORS or any(_texts(fields, DOMAIN)):
            raise _refusal(key, f"operator {'.'.join([*filter(None, _texts(fields, DOMAIN)), operator])[:80]!r}")
    inputs = list(filter(None, _texts(fields, INPUTS)))
    if constants.issuperset(inputs):
        # Engines compute such a node when they load the model: a few of them in a row make any size out of nothing.
        raise _refusal(key, f"a node ({_texts(fields, OPERATOR)[0]}) that reads only constants")


def _refusal(key: str, what: str) -> BundleError:
    return BundleError(
        f"graph {key}: its file has {what}, which hiif-deploy export does not write; refused: export the bundle again"
    )


def _texts(fields: list[Field], number: int) -> list[str]:
    return [bytes(value).decode() for n, _, value in fields if n == number and isinstance(value, memoryview)]


def _fields(data: memoryview) -> Iterator[Field]:
    """(number, wire type, value) of every field of a message; ValueError or IndexError where the bytes are none."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        # protobuf keeps the lowest 32 bits of a tag: a longer one would be another field to it than to this check.
        if tag >= 1 << 32 or tag < 1 << 3 or (at - start > 1 and data[at - 1] == 0):
            raise ValueError(f"field tag {bytes(data[start:at]).hex()}")
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("truncated")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at a position and the position behind it: seven bits a byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")
