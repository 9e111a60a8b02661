"""Graphs in PyTorch answer as ONNX Runtime does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hiif_deploy import BundleError, EngineError
from hiif_deploy.bundle.contract import GraphContract, TensorContract

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")

from hiif_engines.torch_graph.interpreter import TorchGraph  # noqa: E402
from hiif_engines.torch_graph.operations import OPERATIONS  # noqa: E402

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(3)
INTS = {
    "axes": [1],
    "sizes": [0, -1],
    "starts": [1, 0],
    "ends": [5, 2],
    "both": [0, 1],
    "steps": [2, 1],
    "parts": [1, 3],
    "wide": [5, 4],
}
FLOATS = {"low": 0.5, "high": 1.5, "halves": [-0.5, 0.5, 1.5, 2.5]}


def model_of(kind: str, inputs: list[str], outputs: int = 1, **attributes: object) -> bytes:
    """One operation on `x` [6, 4], `y` [4, 4], `b` [4], `image` [1, 2, 5, 6], `kernel` [3, 2, 3, 3], or constants."""
    names = [f"out_{n}" for n in range(outputs)]
    shapes = {"x": [6, 4], "y": [4, 4], "b": [4], "image": [1, 2, 5, 6], "kernel": [3, 2, 3, 3]}
    given = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in dict.fromkeys(inputs) if n in shapes
    ]
    constants = [numpy_helper.from_array(np.array(INTS[n], np.int64), n) for n in inputs if n in INTS]
    constants += [numpy_helper.from_array(np.array(FLOATS[n], np.float32), n) for n in inputs if n in FLOATS]
    constants += [numpy_helper.from_array(np.array(1, np.int64), n) for n in inputs if n == "one"]
    constants += [numpy_helper.from_array(np.array([[2, 0], [1, 1]], np.int64), n) for n in inputs if n == "index"]
    element = TensorProto.INT64 if kind == "Shape" else TensorProto.FLOAT
    found = [helper.make_tensor_value_info(n, element, None) for n in names]
    graph = helper.make_graph([helper.make_node(kind, inputs, names, **attributes)], "g", given, found, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def contract_of(model: bytes) -> GraphContract:
    graph = onnx.load_from_string(model).graph
    inputs = tuple(TensorContract(i.name, "float32", ()) for i in graph.input)
    return GraphContract("g", "g.onnx", "", inputs, tuple(TensorContract(o.name, "float32", ()) for o in graph.output))


CASES = [
    ("Add", ["x", "b"], 1, {}), ("Clip", ["x", "low", "high"], 1, {}), ("Concat", ["x", "y"], 1, {"axis": 0}),
    ("Conv", ["image", "kernel"], 1, {"pads": [1, 1, 1, 1]}),
    ("Conv", ["image", "kernel"], 1, {"pads": [0, 1, 0, 1], "strides": [2, 1]}), ("Cos", ["x"], 1, {}),
    ("Div", ["x", "b"], 1, {}), ("Erf", ["x"], 1, {}), ("Exp", ["x"], 1, {}), ("Expand", ["b", "wide"], 1, {}),
    ("Flatten", ["image"], 1, {"axis": 2}),
    ("Gather", ["x", "one"], 1, {"axis": 1}), ("Gather", ["x", "index"], 1, {}),
    ("Gather", ["x", "index"], 1, {"axis": 1}),
    ("Gelu", ["x"], 1, {}), ("Gelu", ["x"], 1, {"approximate": "tanh"}), ("Gemm", ["x", "y", "b"], 1, {"transB": 1}),
    ("Gemm", ["x", "y"], 1, {"alpha": 0.5}), ("Gemm", ["x", "y", "b"], 1, {"alpha": 0.5, "beta": 2.0}),
    ("Identity", ["x"], 1, {}), ("LayerNormalization", ["x", "b", "b"], 1, {}), ("LeakyRelu", ["x"], 1, {"alpha": 0.2}),
    ("MatMul", ["x", "y"], 1, {}), ("Mul", ["x", "x"], 1, {}), ("Neg", ["x"], 1, {}), ("Reciprocal", ["x"], 1, {}),
    ("ReduceMax", ["x"], 1, {"keepdims": 0}), ("ReduceMax", ["x", "axes"], 1, {}),
    ("ReduceMin", ["x"], 1, {"keepdims": 0}), ("ReduceMin", ["x", "axes"], 1, {}),
    ("ReduceMean", ["x", "axes"], 1, {"keepdims": 0}), ("ReduceSum", ["x", "axes"], 1, {}), ("ReduceSum", ["x"], 1, {}),
    ("Relu", ["x"], 1, {}), ("Reshape", ["image", "sizes"], 1, {}), ("Round", ["x"], 1, {}),
    ("Round", ["halves"], 1, {}), ("Shape", ["image"], 1, {}), ("Shape", ["image"], 1, {"start": 1, "end": 2}),
    ("Sigmoid", ["x"], 1, {}), ("Sin", ["x"], 1, {}),
    ("Slice", ["x", "starts", "ends", "both", "steps"], 1, {}), ("Slice", ["x", "starts", "ends"], 1, {}),
    ("Softmax", ["x"], 1, {}), ("Split", ["x", "parts"], 2, {"axis": 1}), ("Split", ["x"], 2, {"num_outputs": 2}),
    ("Sqrt", ["x"], 1, {}), ("Sub", ["x", "b"], 1, {}), ("Tanh", ["x"], 1, {}), ("Transpose", ["image"], 1, {}),
    ("Transpose", ["x"], 1, {"perm": [1, 0]}), ("Unsqueeze", ["x", "both"], 1, {}), ("Cast", ["x"], 1, {"to": 1}),
]  # fmt: skip


def test_every_operation_of_the_table_is_compared() -> None:
    assert {kind for kind, *_ in CASES} == OPERATIONS.keys()


@pytest.mark.parametrize(("kind", "inputs", "outputs", "attributes"), CASES)
def test_an_operation_answers_as_in_onnx_runtime(
    kind: str, inputs: list[str], outputs: int, attributes: dict[str, object]
) -> None:
    model = model_of(kind, inputs, outputs, **attributes)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {i.name: RANDOM.uniform(0.1, 2, i.shape).astype(np.float32) for i in session.get_inputs()}
    expected = session.run(None, feeds)
    found = TorchGraph(contract_of(model), model, CPU)({k: torch.from_numpy(v) for k, v in feeds.items()})
    for answer, value in zip(found.values(), expected, strict=True):
        assert answer.shape == value.shape
        # A few roundings of float32 values below 30.
        np.testing.assert_allclose(answer.numpy(), value, rtol=1e-5, atol=1e-5)


def test_an_unknown_operation_is_refused_by_name() -> None:
    model = model_of("Mish", ["x"])
    with pytest.raises(EngineError, match="graph g holds Mish, which the torch engine does not know: use --engine"):
        TorchGraph(contract_of(model), model, CPU)


def test_a_damaged_file_is_refused() -> None:
    model = model_of("Relu", ["x"])
    with pytest.raises(BundleError, match="graph g: its file is no ONNX model"):
        TorchGraph(contract_of(model), b"\xff" + model, CPU)


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [("Conv", ["image", "kernel"], {"pads": [0, 0, 1, 1]}), ("MatMul", ["x", "x"], {})],
)
def test_what_cannot_be_computed_is_an_error_that_names_the_operation(
    kind: str, inputs: list[str], attributes: dict[str, object]
) -> None:
    model = model_of(kind, inputs, **attributes)
    graph = TorchGraph(contract_of(model), model, CPU)
    feeds = {"x": torch.ones(6, 4), "image": torch.ones(1, 2, 5, 6), "kernel": torch.ones(3, 2, 3, 3)}
    with pytest.raises(EngineError, match=f"graph g: {kind} failed on"):
        graph(feeds)
