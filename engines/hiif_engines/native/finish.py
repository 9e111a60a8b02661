"""Decoded colours to values of a frame: the shared graphs `finish-DTYPE` in native code, one line of pixels at a time.

Every value is computed by the operations of the graph in their order, each rounded by itself, so that the values are
those of the graph bit for bit; sums of colours, which only show NaN, are added in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.conversion import RANGE
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.decoding.shared_graphs import contracts
from hiif_engines.native.compile import Compiled
from hiif_engines.native.emit import COLOURS, FLOAT, I8, I32, I64, POINTER, WORD, Emitter, Value
from hiif_engines.native.kernel import SLOT
from hiif_engines.native.target import Target

ELEMENTS = {"uint8": I8, "uint16": ir.IntType(16), "float32": FLOAT}
"""Types of frames, and of their values in native code."""
POINTERS = (
    "colour", "frame", "row_lower", "row_upper", "row_weight", "column_lower", "column_upper", "column_weight", "std",
    "offset", "line", "values", "range",
)  # fmt: skip
"""Arguments: colours [rows, 3 · columns]; lines of the frame, whole vectors; the two that an output line lies between,
in bytes, and its weight; the same for every value of a line, with std and offset; memory for a line; values; range."""
NUMBERS = ("rows", "values_per_line", "line_values")
"""and behind them output lines, 3 · columns, and the values of a line of the frame, whole vectors."""


class NativeFinish:
    """A `finish` graph of three channels as a session. `run` may be called from several threads."""

    def __init__(self, graph: GraphContract, target: Target) -> None:
        self.graph, self._target = graph, target
        self._type = np.dtype(graph.outputs[0].dtype)
        clamps = graph.name != "finish-colours"
        code = Compiled(lambda: _finish(target, self._type, clamps), target, (graph.name, "finish"))
        self._call = code.function("finish")

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Colours [queries, 3] and the part of a frame that the skip reads → `values` [rows, columns, 3], and their
        range before the clamp."""
        frame, lanes = feeds["frame"], self._target.lanes
        rows, columns = feeds["row_skip_lower"].size, feeds["column_skip_lower"].size
        width = COLOURS * columns
        lines = np.zeros((len(frame), self._target.padded(frame[0].size)), self._type)
        lines[:, : frame[0].size] = frame.reshape(len(frame), -1)
        # What a line's last vector holds beyond it is overwritten by the next line.
        values = np.empty(rows * width + lanes, self._type)
        found = np.empty((len(RANGE), lanes), np.float32)
        self._call([
            np.ascontiguousarray(feeds["colour"], np.float32), lines,
            *(_bytes(feeds[f"row_skip_{end}"], lines.strides[0]) for end in ("lower", "upper")),
            np.ascontiguousarray(feeds["row_skip_weight"], np.float32),
            *(self._taps(feeds[f"column_skip_{end}"]) for end in ("lower", "upper")),
            self._per_value(np.repeat(feeds["column_skip_weight"], COLOURS)),
            *(self._per_value(np.tile(feeds[name], columns)) for name in ("std", "offset")),
            np.empty(lines.shape[1], np.float32), values, found, rows, width, lines.shape[1],
        ])  # fmt: skip
        low, high, total = found
        return {
            "values": values[: rows * width].reshape(rows, columns, COLOURS),
            **dict(zip(RANGE, (low.min(), high.max(), total.sum()), strict=True)),
        }

    def _taps(self, pixels: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return pixels of a line → bytes of their values in float32, for whole vectors."""
        return self._per_value(_bytes(COLOURS * pixels[:, None] + np.arange(COLOURS), WORD).ravel())

    def _per_value(self, values: NDArray[Any]) -> NDArray[Any]:
        # np.pad would take five times as long.
        whole = np.zeros(self._target.padded(values.size), values.dtype)
        whole[: values.size] = values
        return whole


def finish_session(name: str, target: Target) -> NativeFinish | None:
    """Return the shared graph of that name; None for what native code does not have."""
    graph = contracts()[name]
    is_there = name.startswith("finish-") and not name.endswith("-grey") and graph.outputs[0].dtype in ELEMENTS
    return NativeFinish(graph, target) if is_there else None


def _bytes(places: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    return places.astype(np.int64) * size


def _finish(target: Target, dtype: np.dtype[Any], clamps: bool) -> ir.Module:
    e = Emitter(target, ir.Module("finish"), "finish", [POINTER])
    slots = {slot: e.load(POINTER, e.arguments[0], SLOT * n) for n, slot in enumerate(POINTERS)}
    slots |= {slot: e.load(I64, e.arguments[0], SLOT * (len(POINTERS) + n)) for n, slot in enumerate(NUMBERS)}
    with e.loop(slots["rows"], carried=_empty_range(e)) as row:
        _emit_line(e, slots, row.index, dtype)
        first = e.builder.mul(row.index, slots["values_per_line"])
        with e.loop(slots["values_per_line"], e.lanes, carried=row.values) as place:
            inside = _inside(e, slots["values_per_line"], place.index)
            place_in_all = e.builder.add(first, place.index)
            colour = _colour(e, slots, place.index, place_in_all, inside)
            place.values = _wider(e, place.values, colour, inside)
            values = _converted(e, colour, dtype) if clamps else colour
            e.store(values, slots["values"], e.times(place_in_all, dtype.itemsize))
        row.values = place.values
    for n, value in enumerate(row.values):
        e.store(value, slots["range"], n * e.lanes * WORD)
    e.finish()
    return e.module


def _emit_line(e: Emitter, slots: dict[str, Value], row: Value, dtype: np.dtype[Any]) -> None:
    """Write the output line's values between two lines of the frame, in float32, to `line`."""
    ends = [e.load(I64, slots[name], e.times(row, SLOT)) for name in ("row_lower", "row_upper")]
    weight = e.spread(e.load(FLOAT, slots["row_weight"], e.times(row, WORD)))
    with e.loop(slots["line_values"], e.lanes) as place:
        lower, upper = (
            _unit(e, e.at(slots["frame"], end, e.times(place.index, dtype.itemsize)), dtype) for end in ends
        )
        e.store(_between(e, lower, upper, weight), slots["line"], e.times(place.index, WORD))


def _unit(e: Emitter, pointer: Value, dtype: np.dtype[Any]) -> Value:
    """Load values of the frame, scaled to [0, 1]."""
    values = e.load(ir.VectorType(ELEMENTS[dtype.name], e.lanes), pointer)
    if dtype.kind == "f":
        return values
    return e.builder.fdiv(e.builder.uitofp(values, e.floats), e.reals(float(np.iinfo(dtype).max)))


def _between(e: Emitter, lower: Value, upper: Value, weight: Value) -> Value:
    return e.builder.fadd(lower, e.builder.fmul(e.builder.fsub(upper, lower), weight))


def _inside(e: Emitter, end: Value, index: Value) -> Value:
    """Return which lanes are values of the line."""
    b = e.builder
    left = b.trunc(b.sub(end, index), I32)
    return b.icmp_unsigned("<", ir.Constant(e.words, list(range(e.lanes))), e.spread(left))


def _colour(e: Emitter, slots: dict[str, Value], index: Value, place: Value, inside: Value) -> Value:
    """Return colours · std + offset, and the skip added; lanes that are not inside have no meaning."""
    b = e.builder
    pointer = e.at(slots["colour"], e.times(place, WORD))
    align, nothing, name = ir.Constant(I32, WORD), e.reals(0.0), f"llvm.masked.{{}}.v{e.lanes}f32.{{}}"
    colour = e.call(name.format("load", "p0"), e.floats, pointer, align, inside, nothing, overloaded=False)
    taps = []
    for end in ("column_lower", "column_upper"):
        offsets = e.load(ir.VectorType(I64, e.lanes), slots[end], e.times(index, SLOT))
        pointers = b.inttoptr(b.add(offsets, e.spread(b.ptrtoint(slots["line"], I64))), ir.VectorType(POINTER, e.lanes))
        gather = name.format("gather", f"v{e.lanes}p0")
        taps.append(e.call(gather, e.floats, pointers, align, inside, nothing, overloaded=False))
    weight, std, offset = (e.load(e.floats, slots[n], e.times(index, WORD)) for n in ("column_weight", "std", "offset"))
    return b.fadd(b.fadd(b.fmul(colour, std), offset), _between(e, taps[0], taps[1], weight))


def _empty_range(e: Emitter) -> list[Value]:
    return [e.reals(start) for start in (float("inf"), float("-inf"), 0.0)]


def _wider(e: Emitter, known: list[Value], colour: Value, inside: Value) -> list[Value]:
    """Return least, largest and summed values with those of the lanes that are inside."""
    low, high, total = known
    found = e.minimum(colour, low), e.maximum(colour, high), e.builder.fadd(total, colour)
    return [e.builder.select(inside, new, old) for new, old in zip(found, known, strict=True)]


def _converted(e: Emitter, colour: Value, dtype: np.dtype[Any]) -> Value:
    """Return values of the frame's type: clamped, and whole numbers rounded to the nearest, halves to the even one."""
    if dtype.kind == "f":
        return e.between(colour, 0.0, 1.0)
    top = float(np.iinfo(dtype).max)
    levels = e.call("llvm.roundeven", e.floats, e.builder.fmul(colour, e.reals(top)))
    return e.builder.fptoui(e.between(levels, 0.0, top), ir.VectorType(ELEMENTS[dtype.name], e.lanes))
