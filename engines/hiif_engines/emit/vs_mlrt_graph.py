"""Builds one ONNX graph for one integer scale: picture in, upscaled picture out.

The bundle's encoder, maps and decoder graphs are connected by a few operators that do the runtime's work between them.
At an integer scale s the s pixels over every source pixel have the same pattern, so taps and bits are small integer
tables that the graph repeats for any input size; no compiler can round them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.bundle.loader import Bundle
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import BundleError
from hiif_deploy.geometry.grid import exact_bits, exact_local

OPSET = 20
"""Opset of the bundle's graphs and of the result."""
AXES = {"row": 2, "column": 3}
"""Name of an axis in the geometry inputs → its place in [1, 3, H, W]."""


def fused_graph(bundle: Bundle, scale: int, folded: Tensors, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Return a model from `input` [1, 3, height, width] to `output` [1, 3, scale·height, scale·width], float32 RGB in
    [0, 1].

    `folded` holds the folded attention by input name of the decoder. Bits follow the exact rule, whatever the bundle's.
    """
    graph = _GraphBuilder()
    graph.add("Sub", ["input", graph.constant("mean", _channels(bundle.contract.normalisation.mean))], "centred")
    graph.add("Div", ["centred", graph.constant("std", _channels(bundle.contract.normalisation.std))], "image")
    graph.graft(bundle, "encoder", {"image": "image"})
    halo = bundle.contract.decoder.halo
    pads = np.array([0, 0, halo, halo, 0, 0, halo, halo], np.int64)
    graph.add("Pad", ["encoder/features", graph.constant("pads", pads)], "padded")
    graph.graft(bundle, "maps", {"features": "padded"})
    joins = {tensor.name: f"maps/{tensor.name}" for tensor in bundle.contract.graph("maps").outputs}
    joins |= _geometry(graph, bundle.contract, scale)
    joins |= {name: graph.constant(f"folded/{name}", value) for name, value in folded.items()}
    graph.graft(bundle, "decoder", joins)
    _finish(graph, bundle.contract, scale)
    return graph.model(f"{bundle.contract.name}_x{scale}", metadata)


def axis_pattern(scale: int, levels: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Return the pattern over source pixel 0: taps [2, scale] before clamping, bits [levels, scale], local [scale].

    Over source pixel n the taps are n more; bits and local positions are the same.
    """
    index = np.arange(scale, dtype=np.int64)
    low = (2 * index + 1 - scale) // (2 * scale)
    return np.stack([low, low + 1]), exact_bits(1, scale, index, levels), exact_local(1, scale, index)


class _GraphBuilder:
    """Collects nodes and constants; every tensor is named once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Store a tensor; equal names must mean equal values."""
        self.constants[name] = onnx.numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def integers(self, *values: int) -> str:
        """Store an int64 list once; return its name."""
        return self.constant("int_" + "_".join(map(str, values)), np.array(values, np.int64))

    def graft(self, bundle: Bundle, name: str, joins: Mapping[str, str]) -> None:
        """Append the bundle's graph `name`, its tensors prefixed and its inputs taken from `joins`."""
        model = onnx.load_from_string(bundle.graphs[name])
        check_joinable(name, model, joins)
        model = onnx.compose.add_prefix(model, f"{name}/")
        joined = {f"{name}/{tensor}": source for tensor, source in joins.items()}
        for node in model.graph.node:
            node.input[:] = [joined.get(tensor, tensor) for tensor in node.input]
        self.nodes += model.graph.node
        self.constants |= {tensor.name: tensor for tensor in model.graph.initializer}

    def model(self, name: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the finished model, checked by ONNX."""
        shapes = {"input": (1, 3, "height", "width"), "output": (1, 3, "out_height", "out_width")}
        ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in shapes.items()]
        graph = onnx.helper.make_graph(self.nodes, name, ends[:1], ends[1:], list(self.constants.values()))
        model: onnx.ModelProto = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10, producer_name="hiif-deploy"
        )
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


def check_joinable(name: str, model: onnx.ModelProto, joins: Mapping[str, str]) -> None:
    """Raise BundleError where a graph of the bundle cannot become a part of a larger one."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET} or model.functions:
        raise BundleError(
            f"graph {name}: it uses opsets {opsets}, expected ONNX {OPSET} alone: export the bundle again"
        )
    missing = [tensor.name for tensor in model.graph.input if tensor.name not in joins]
    if missing:
        raise BundleError(f"graph {name}: input {missing[0]} is known to no earlier graph, so it cannot be joined")


def _geometry(graph: _GraphBuilder, contract: Contract, scale: int) -> dict[str, str]:
    """Return geometry inputs of the decoder → names of their tensors, for one tile: the whole picture."""
    graph.add("Shape", ["input"], "shape")
    tables = {name: tensor for axis in AXES for name, tensor in _axis(graph, contract, scale, axis).items()}
    # The decoder adds row and column tap: rows come multiplied by the picture's width.
    width = graph.add("Cast", ["column/size"], "width", to=_type("int32"))
    tables["row_tap"] = graph.add("Mul", [tables["row_tap"], width], "row_tap")
    cells = [graph.add("Mul", [f"{axis}/step", f"{axis}/source"], f"{axis}/cell") for axis in AXES]
    tables["cell"] = graph.add("Concat", cells, "cell", axis=0)
    return tables


def _axis(graph: _GraphBuilder, contract: Contract, scale: int, axis: str) -> dict[str, str]:
    """Add the axis table of `grid.axis_table(size, scale · size, bits="exact")` as tensors."""
    taps, bits, local = axis_pattern(scale, contract.decoder.levels)
    size = graph.add("Slice", ["shape", graph.integers(AXES[axis]), graph.integers(AXES[axis] + 1)], f"{axis}/size")
    count = graph.add("Mul", [size, graph.integers(scale)], f"{axis}/count")
    source_index = _index(graph, size, f"{axis}/source_index")
    column = graph.add("Unsqueeze", [source_index, graph.integers(1)], f"{axis}/source_column")
    pattern = graph.constant(f"tap_pattern_{scale}", taps[:, None, :])
    moved = graph.add("Add", [column, pattern], f"{axis}/moved")
    above = graph.add("Max", [moved, graph.integers(0)], f"{axis}/above")
    last = graph.add("Sub", [size, graph.integers(1)], f"{axis}/last")
    tap = graph.add("Min", [above, last], f"{axis}/inside")
    tap = graph.add("Reshape", [tap, graph.integers(2, -1)], f"{axis}/taps")
    distance = _distance(graph, axis, size, count, tap)
    tap = graph.add("Cast", [tap], f"{axis}/taps_32", to=_type("int32"))
    tables = {"tap": tap, "distance": distance}
    requested = contract.graph("decoder").geometry
    for name, values in (("bits", bits), ("local", local[None])):
        if f"{axis}_{name}" in requested:
            tables[name] = _repeated(graph, axis, size, name, values)
    # Rows are [·, R, 1], columns [·, 1, W].
    place = graph.integers(2 if axis == "row" else 1)
    return {
        f"{axis}_{name}": graph.add("Unsqueeze", [tensor, place], f"{axis}/{name}_shaped")
        for name, tensor in tables.items()
    }


def _distance(graph: _GraphBuilder, axis: str, size: str, count: str, tap: str) -> str:
    """Add [2, count] |query − tap| with `grid.axis_table`'s float32 operations, in their order."""
    source = graph.add("Cast", [size], f"{axis}/source", to=_type("float32"))
    target = graph.add("Cast", [count], f"{axis}/target", to=_type("float32"))
    query = _centres(graph, axis, target, _index(graph, count, f"{axis}/target_index"), "step", "query")
    centre = _centres(graph, axis, source, tap, "source_step", "centre")
    offset = graph.add("Sub", [query, centre], f"{axis}/offset")
    half = graph.add("Mul", [source, graph.constant("half", np.array([0.5], np.float32))], f"{axis}/half")
    relative = graph.add("Mul", [offset, half], f"{axis}/relative")
    return graph.add("Abs", [relative], f"{axis}/distance")


def _centres(graph: _GraphBuilder, axis: str, count: str, index: str, step_name: str, name: str) -> str:
    """Add pixel centres as `grid.pixel_centres` computes them; (1 − n) / n is its −1 + 1/n rounded once."""
    one = graph.constant("one", np.array([1], np.float32))
    two = graph.constant("two", np.array([2], np.float32))
    step = graph.add("Div", [two, count], f"{axis}/{step_name}")
    below = graph.add("Sub", [one, count], f"{axis}/{name}_below")
    first = graph.add("Div", [below, count], f"{axis}/{name}_first")
    number = graph.add("Cast", [index], f"{axis}/{name}_number", to=_type("float32"))
    scaled = graph.add("Mul", [step, number], f"{axis}/{name}_scaled")
    return graph.add("Add", [scaled, first], f"{axis}/{name}")


def _index(graph: _GraphBuilder, count: str, name: str) -> str:
    """Add 0, 1, …, count − 1 in int64."""
    limit = graph.add("Squeeze", [count], f"{name}_limit")
    zero, one = (graph.constant(f"scalar_{n}", np.array(n, np.int64)) for n in (0, 1))
    return graph.add("Range", [zero, limit, one], name)


def _repeated(graph: _GraphBuilder, axis: str, size: str, name: str, pattern: NDArray[Any]) -> str:
    """Add [k, scale] → [k, size · scale]: the pattern once per source pixel."""
    k, scale = pattern.shape
    stored = graph.constant(f"{name}_pattern_{scale}", pattern[:, None, :])
    shape = graph.add("Concat", [graph.integers(k), size, graph.integers(scale)], f"{axis}/{name}_shape", axis=0)
    whole = graph.add("Expand", [stored, shape], f"{axis}/{name}_whole")
    return graph.add("Reshape", [whole, graph.integers(k, -1)], f"{axis}/{name}")


def _finish(graph: _GraphBuilder, contract: Contract, scale: int) -> None:
    """Add colours [N, 3] → `output`, as `compose.finish` does, clamped."""
    shape = graph.add("Concat", ["row/count", "column/count", graph.integers(3)], "colour_shape", axis=0)
    picture = graph.add("Reshape", ["decoder/colour", shape], "colour_picture")
    planes = graph.add("Transpose", [picture], "colour_planes", perm=[2, 0, 1])
    planes = graph.add("Unsqueeze", [planes, graph.integers(0)], "colour_batch")
    planes = graph.add("Mul", [planes, "std"], "colour_scaled")
    added = "mean"
    if contract.decoder.skip == "bilinear":
        factors = graph.constant("factors", np.array([1, 1, scale, scale], np.float32))
        added = graph.add("Resize", ["input", "", factors], "skip", mode="linear")
    whole = graph.add("Add", [planes, added], "unclamped")
    graph.add("Clip", [whole, *(graph.constant(f"level_{n}", np.array(n, np.float32)) for n in (0, 1))], "output")


def _channels(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, 3, 1, 1)


def _type(name: str) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)))
