"""Writes the small graphs that ship with the runtime and belong to no bundle (`hiif_deploy/decoding/graphs`).

python -m hiif_export.graphs.shared

They convert frames to the encoder's input, and decoded colours to frames, step by step in the order of
`hiif_deploy.pixels` and `hiif_deploy.decoding.compose`, so that all engines round alike.
"""

from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hiif_deploy.bundle.contract import GraphContract, TensorContract
from hiif_deploy.decoding.shared_graphs import contracts
from hiif_deploy.pixels import LUMA_BLUE, LUMA_RED
from hiif_export.graphs.onnx_file import OPSET

IR_VERSION = 10
"""IR version of the ONNX files."""
Nodes = list[onnx.NodeProto]


def shared_models() -> dict[str, onnx.ModelProto]:
    """Return file stem → model for every shared graph."""
    return {name: _model(contract, _nodes(contract)) for name, contract in contracts().items()}


def write() -> None:
    """Write all shared graphs into the runtime's package."""
    with as_file(files("hiif_deploy") / "decoding" / "graphs") as folder:
        for name, model in shared_models().items():
            (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _nodes(contract: GraphContract) -> Nodes:
    kind, _, rest = contract.name.partition("-")
    if kind == "crop":
        return [
            _node("Slice", ["features", "starts", "ends", "axes"], "inside"),
            _node("Pad", ["inside", "pads"], "crop"),
        ]
    return _prepare(rest) if kind == "prepare" else _finish(contract)


def _prepare(dtype: str) -> Nodes:
    """frame [h, w, c] → image [1, 3, h, w], normalised."""
    nodes, unit = _unit(dtype)
    return [
        *nodes,
        _node("Shape", ["frame"], "size", start=1, end=2),
        _node("Concat", ["size", "three"], "line", axis=0),
        *_expanded("mean", "std"),
        _node("Sub", [unit, "mean_line"], "centred"),
        _node("Div", ["centred", "std_line"], "scaled"),
        _node("Transpose", ["scaled"], "planes", perm=[2, 0, 1]),
        _node("Unsqueeze", ["planes", "zero"], "image"),
    ]


def _finish(contract: GraphContract) -> Nodes:
    """colour [queries, 3] and the frame's part below it → values of a frame, and how large the colours were."""
    frame, values = contract.inputs[1].dtype, contract.outputs[0].dtype
    converted, unit = _unit(frame)
    is_grey = contract.name.endswith("-grey")
    colours = "values" if contract.name == "finish-colours" else "colours"
    nodes = [
        *converted,
        _node("Shape", ["row_skip_lower"], "rows"),
        _node("Shape", ["column_skip_lower"], "columns"),
        _node("Concat", ["rows", "columns", "three"], "shape", axis=0),
        _node("Concat", ["columns", "three"], "line", axis=0),
        *_expanded("std", "offset", *(() if is_grey else ("column_skip_weight",))),
        _node("Reshape", ["colour", "shape"], "grid"),
        _node("Mul", ["grid", "std_line"], "deviation"),
        _node("Add", ["deviation", "offset_line"], "scaled"),
        *_bilinear(unit, "column_skip_weight" if is_grey else "column_skip_weight_line"),
        _node("Add", ["scaled", "skip"], colours),
        _node("ReduceMin", [colours], "low", keepdims=0),
        _node("ReduceMax", [colours], "high", keepdims=0),
        _node("ReduceSum", [colours], "total", keepdims=0),
    ]
    if colours == "values":
        return nodes
    channels = "colours"
    if is_grey:
        nodes += _luma()
        channels = "grey"
    if values.startswith("float"):
        return [*nodes, _node("Clip", [channels, "black", "white"], "values")]
    return [
        *nodes,
        _node("Mul", [channels, "top"], "levels"),
        _node("Round", ["levels"], "whole"),
        _node("Clip", ["whole", "black", "top"], "clipped"),
        _node("Cast", ["clipped"], "values", to=_element(values)),
    ]


def _expanded(*names: str) -> Nodes:
    """Values per channel, or per column, written out for a line of pixels: broadcasting three values at a time takes
    ONNX Runtime several times as long."""
    return [_node("Expand", [name, "line"], f"{name}_line") for name in names]


def _unit(dtype: str) -> tuple[Nodes, str]:
    """Return nodes that scale a frame's values to [0, 1], and the name of their result."""
    if dtype.startswith("float"):
        return [], "frame"
    return [
        _node("Cast", ["frame"], "integers", to=TensorProto.FLOAT),
        _node("Div", ["integers", "top"], "unit"),
    ], "unit"


def _bilinear(unit: str, column_weight: str) -> Nodes:
    """Nodes of `compose.bilinear`: rows first, then columns."""
    nodes = []
    steps = {"row": (unit, 0, "row_skip_weight"), "column": ("lines", 1, column_weight)}
    for line, (source, axis, weight) in steps.items():
        lower, upper, change = f"{line}_lower", f"{line}_upper", f"{line}_change"
        nodes += [
            _node("Gather", [source, f"{line}_skip_lower"], lower, axis=axis),
            _node("Gather", [source, f"{line}_skip_upper"], upper, axis=axis),
            _node("Sub", [upper, lower], change),
            _node("Mul", [change, weight], f"{change}_part"),
            _node("Add", [lower, f"{change}_part"], "lines" if axis == 0 else "skip"),
        ]
    return nodes


def _luma() -> Nodes:
    """Nodes of `pixels._luma`: green plus differences."""
    return [
        helper.make_node("Split", ["colours"], ["red", "green", "blue"], axis=2, num_outputs=3),
        _node("Sub", ["red", "green"], "red_change"),
        _node("Mul", ["red_change", "luma_red"], "red_part"),
        _node("Sub", ["blue", "green"], "blue_change"),
        _node("Mul", ["blue_change", "luma_blue"], "blue_part"),
        _node("Add", ["red_part", "blue_part"], "parts"),
        _node("Add", ["parts", "green"], "grey"),
    ]


CONSTANTS: dict[str, NDArray[Any]] = {
    "zero": np.array([0], np.int64), "three": np.array([3], np.int64),
    "black": np.array(0, np.float32), "white": np.array(1, np.float32),
    "luma_red": np.array(LUMA_RED, np.float32), "luma_blue": np.array(LUMA_BLUE, np.float32),
}  # fmt: skip


def _model(contract: GraphContract, nodes: Nodes) -> onnx.ModelProto:
    tops = [
        np.iinfo(tensor.dtype).max for tensor in contract.inputs if tensor.name == "frame" and tensor.dtype[0] != "f"
    ]
    # Engines without uint16 receive 16-bit frames as int32: the largest value is then still 65535.
    constants = CONSTANTS | {"top": np.array(min([*tops, 65535]), np.float32)}
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, contract.name, _values(contract.inputs), _values(contract.outputs),
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in read],
    )  # fmt: skip
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="hiif-deploy"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _values(tensors: Iterable[TensorContract]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(t.name, _element(t.dtype), list(t.shape)) for t in tensors]


def _element(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


if __name__ == "__main__":
    write()
