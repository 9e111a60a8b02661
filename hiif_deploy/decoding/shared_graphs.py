"""The small graphs that ship with the runtime: frames to the encoder's input, decoded colours to frames, crops.

    prepare-DTYPE        frame [h, w, c], mean, std [3] → image [1, 3, h, w], what the encoder takes
    finish-DTYPE[-grey]  colour [queries, 3], frame, offset, std, skip → values [r, w, 3 or 1] of the frame's type, and
                         the least, largest and summed colour before they were clamped
    finish-colours       the same without clamping, for frames of float32: what verification measures
    crop-DTYPE           features [1, C, h, w] → a part of them with zeros around it

`hiif_export.graphs.shared` writes their files; the reference in numpy is `compose.finish` and `pixels`.
"""

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from hiif_deploy.bundle.contract import ElementType, GraphContract, TensorContract

FRAME_TYPES: tuple[ElementType, ...] = ("uint8", "uint16", "int32", "float32")
"""Element types of frames. int32 holds 16-bit values for engines that have no uint16 (TensorRT, PyTorch)."""
FEATURE_TYPES: tuple[ElementType, ...] = ("float16", "float32")


@cache
def contracts() -> dict[str, GraphContract]:
    """Name → inputs and outputs of every shared graph."""
    found = [_prepare(dtype) for dtype in FRAME_TYPES]
    found += [_finish(dtype, channels) for dtype in FRAME_TYPES for channels in (3, 1)]
    found += [_finish("float32", 3, "finish-colours"), *(_crop(dtype) for dtype in FEATURE_TYPES)]
    return {contract.name: contract for contract in found}


def without_uint16(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The element type that holds a frame in an engine that has no uint16."""
    return np.dtype(np.int32) if dtype == np.uint16 else dtype


def model(name: str) -> bytes:
    """The ONNX file of a shared graph."""
    return (files("hiif_deploy") / "decoding" / "graphs" / f"{name}.onnx").read_bytes()


def _graph(name: str, inputs: list[TensorContract], outputs: list[TensorContract]) -> GraphContract:
    return GraphContract(name, "", "", tuple(inputs), tuple(outputs))


def _prepare(dtype: ElementType) -> GraphContract:
    vectors = [TensorContract(name, "float32", (3,)) for name in ("mean", "std")]
    frame = TensorContract("frame", dtype, ("height", "width", "channels"))
    image = TensorContract("image", "float32", (1, 3, "height", "width"))
    return _graph(f"prepare-{dtype}", [frame, *vectors], [image])


def _finish(dtype: ElementType, channels: int, name: str | None = None) -> GraphContract:
    rows, columns = "rows", "columns"
    inputs = [
        TensorContract("colour", "float32", ("queries", 3)),
        TensorContract("frame", dtype, ("height", "width", "channels")),
        TensorContract("offset", "float32", (3,)),
        TensorContract("std", "float32", (3,)),
        TensorContract("row_skip_lower", "int32", (rows,)),
        TensorContract("row_skip_upper", "int32", (rows,)),
        TensorContract("row_skip_weight", "float32", (rows, 1, 1)),
        TensorContract("column_skip_lower", "int32", (columns,)),
        TensorContract("column_skip_upper", "int32", (columns,)),
        TensorContract("column_skip_weight", "float32", (columns, 1)),
    ]
    outputs = [TensorContract("values", dtype, (rows, columns, channels))]
    outputs += [TensorContract(name, "float32", ()) for name in ("low", "high", "total")]
    return _graph(name or f"finish-{dtype}{'-grey' if channels == 1 else ''}", inputs, outputs)


def _crop(dtype: ElementType) -> GraphContract:
    indices = {"starts": 2, "ends": 2, "axes": 2, "pads": 8}
    inputs = [TensorContract("features", dtype, (1, "channels", "height", "width"))]
    inputs += [TensorContract(name, "int64", (size,)) for name, size in indices.items()]
    return _graph(f"crop-{dtype}", inputs, [TensorContract("crop", dtype, (1, "channels", "rows", "columns"))])
