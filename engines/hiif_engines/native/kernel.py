"""Kernels: blocks of queries from maps or a state, through layers, to the next state, to colours or to sums.

Every query's result is computed independently, in one order: it does not depend on how the queries are split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llvmlite import ir

from hiif_deploy.errors import EngineError
from hiif_engines.native.emit import COLOURS, FLOAT, I64, POINTER, WORD, Emitter, Value, number
from hiif_engines.native.fronts.blend import BLENDED, Blend, emit_blend
from hiif_engines.native.fronts.corners import (
    CORNERED,
    CORNERS,
    Corners,
    Waves,
    emit_average,
    emit_corner_rows,
    emit_wave_rows,
)
from hiif_engines.native.fronts.filters import FILTERED, Filters, emit_filtered
from hiif_engines.native.fronts.gather import GATHERED, MAPS, Gather, emit_gather
from hiif_engines.native.layer import Layer, ScratchLayout, emit_layer
from hiif_engines.native.products.tiles import emit_begin, emit_end
from hiif_engines.native.sums import KeyValueSums, emit_sums
from hiif_engines.native.target import Target

BLOCK = 192
"""Queries that go through a layer before the next one begins, whole tiles on every target: their rows and both of its
matrices fit the second-level cache."""
SUMMED_BLOCKS = 4
"""Blocks that are added up by one thread."""
COMMON = ("scratch", "taken", "queries", "codes", "output")
"""Arguments that every kernel has: memory of the calling thread, and the number of queries that threads have taken."""
LAYER = ("first", "first_vectors", "second", "second_vectors", "triangle", "triangle_vectors", "mean")
"""Arguments of each layer, prefixed with its number."""
SUMS = ("projection", "projection_bias")
"""Arguments of the projection for sums."""
SLOT = 8
"""Bytes of an argument, a pointer or a number."""


@dataclass(frozen=True)
class Step:
    """A layer and its level in the decoder."""

    layer: Layer
    """Sizes and kind of the layer."""
    level: int
    """Level whose bits the layer reads."""


@dataclass(frozen=True)
class Kernel:
    """Source, layers and result of one kernel."""

    front: Gather | Blend | Corners | Filters | int
    """Source of the rows; a number means a state of that many values."""
    steps: tuple[Step, ...]
    """Layers in order; there may be none. The last one after corners takes their average. Filters have none."""
    result: Literal["state", "colour"] | KeyValueSums
    """Kind of the result: a state, colours or sums."""
    target: Target

    def __post_init__(self) -> None:
        sizes = [self.inputs, *(step.layer.output_width for step in self.steps)]
        wanted = [step.layer.inputs for step in self.steps]
        if isinstance(self.result, KeyValueSums):
            wanted.append(self.result.inputs)
        if sizes[: len(wanted)] != wanted or any(size % self.target.lanes for size in self.widths):
            raise EngineError(
                f"layers take {wanted} values and get {sizes}: expected the same, in multiples of {self.target.lanes}"
            )

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of its arguments in their order."""
        fronts = {Gather: GATHERED, Blend: BLENDED, Corners: CORNERED, Waves: CORNERED, Filters: FILTERED}
        front = fronts.get(type(self.front), ("state",))
        layers = (f"{n}.{name}" for n in range(len(self.steps)) for name in LAYER)
        return (*COMMON, *front, *layers, *(SUMS if isinstance(self.result, KeyValueSums) else ()))

    @property
    def inputs(self) -> int:
        """Number of values in a row before the first layer."""
        return self.front if isinstance(self.front, int) else self.front.width

    @property
    def outputs(self) -> int:
        """Number of values in a row after the last layer."""
        return self.steps[-1].layer.output_width if self.steps else self.inputs

    @property
    def macs(self) -> int:
        """Multiplications per query in matrix products, those with zeros included."""
        layers = [step.layer.macs(self.target) for step in self.steps]
        products = sum(layers[-1:]) + self.query_rows * sum(layers[:-1])
        gathered = 0 if isinstance(self.front, int) else self.front.width
        gathered *= COLOURS if isinstance(self.front, Filters) else len(MAPS)
        return products + gathered + (self.result.macs if isinstance(self.result, KeyValueSums) else 0)

    @property
    def query_rows(self) -> int:
        """Number of rows per query in all layers but the last."""
        return CORNERS if isinstance(self.front, Corners) else 1

    @property
    def block(self) -> int:
        """Number of queries that go through a layer before the next one begins."""
        return BLOCK // self.query_rows

    @property
    def share(self) -> int:
        """Number of queries that a thread takes at once. Each share has sums of its own, so that these do not depend on
        who takes what: fewer of them for more blocks."""
        return self.block * (SUMMED_BLOCKS if isinstance(self.result, KeyValueSums) else 1)

    @property
    def widths(self) -> set[int]:
        """Sizes of all rows that the kernel holds, and of their halves where it takes them by halves."""
        layers = [step.layer for step in self.steps]
        keys = {self.result.outputs // 2} if isinstance(self.result, KeyValueSums) else set()
        sizes = {size for layer in layers for size in (layer.inputs, layer.hidden, layer.outputs, layer.factored)}
        halves = {self.front.width // 2} if isinstance(self.front, Waves) else set()
        return ({self.inputs} | sizes | keys | halves) - {0}


def emit_kernels(kernels: Mapping[str, Kernel], scratch: ScratchLayout) -> ir.Module:
    """Return a module with a function for each kernel; equal layers are written once."""
    module = ir.Module("hiif")
    functions: dict[Layer | KeyValueSums, ir.Function] = {}
    for kernel in kernels.values():
        for layer in [step.layer for step in kernel.steps]:
            if layer not in functions:
                functions[layer] = _internal(emit_layer(module, f"part_{len(functions)}", layer, scratch))
        if isinstance(kernel.result, KeyValueSums) and kernel.result not in functions:
            functions[kernel.result] = _internal(emit_sums(module, f"part_{len(functions)}", kernel.result, scratch))
    for name, kernel in kernels.items():
        _emit_kernel(module, name, kernel, scratch, functions)
    return module


def _internal(function: ir.Function) -> ir.Function:
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function


def _emit_kernel(
    module: ir.Module,
    name: str,
    kernel: Kernel,
    scratch: ScratchLayout,
    functions: Mapping[Layer | KeyValueSums, ir.Function],
) -> None:
    e = Emitter(scratch.target, module, name, [POINTER])
    b = e.builder
    slots = {slot: e.load(POINTER, e.arguments[0], SLOT * n) for n, slot in enumerate(kernel.slots)}
    queries = b.ptrtoint(slots["queries"], I64)
    rows = e.at(slots["scratch"], scratch.block)
    emit_begin(e)
    with (
        e.taken(slots["taken"], queries, kernel.share) as share,
        e.loop(e.least(b.sub(queries, share), number(kernel.share)), kernel.block) as block,
    ):
        first = b.add(share, block.index)
        count = e.least(b.sub(queries, first), number(kernel.block))
        tiles = b.udiv(b.add(count, number(e.target.rows - 1)), number(e.target.rows))
        corner = e.times(tiles, e.target.rows * scratch.row)
        _emit_front(e, kernel, slots, first, count, rows, scratch.row, corner)
        for n, step in enumerate(kernel.steps):
            is_last = n == len(kernel.steps) - 1
            if is_last and isinstance(kernel.front, Corners):
                emit_average(e, step.layer.inputs, slots, first, count, rows, scratch.row, corner)
            codes = e.at(slots["codes"], _codes(e, queries, step.level), e.times(first, WORD))
            turns = tiles if is_last else e.times(tiles, kernel.query_rows)
            arguments = [slots["scratch"], codes, turns, *(slots[f"{n}.{part}"] for part in LAYER)]
            b.call(functions[step.layer], arguments)
        _emit_output(e, kernel, scratch, slots, functions, first, count)
    emit_end(e)
    e.finish()


def _emit_front(
    e: Emitter, kernel: Kernel, slots: Mapping[str, Value], first: Value, count: Value, rows: Value, row_bytes: int,
    corner: Value,
) -> None:  # fmt: skip
    if isinstance(kernel.front, Gather):
        emit_gather(e, kernel.front, slots, first, count, rows, row_bytes)
    elif isinstance(kernel.front, Blend):
        emit_blend(e, kernel.front, slots, first, count, rows, row_bytes)
    elif isinstance(kernel.front, Filters):
        emit_filtered(e, kernel.front, slots, first, count, rows, row_bytes)
    elif isinstance(kernel.front, Waves):
        emit_wave_rows(e, kernel.front, slots, first, count, rows, row_bytes, corner)
    elif isinstance(kernel.front, Corners):
        emit_corner_rows(e, kernel.front, slots, first, count, rows, row_bytes, corner)
    else:
        width = WORD * kernel.front
        _copy(e, e.at(slots["state"], e.times(first, width)), width, rows, row_bytes, count, width)


def _codes(e: Emitter, queries: Value, level: int) -> Value:
    """Return the byte offset of a level's codes: there are more codes than queries, so that tiles are complete."""
    return e.times(e.builder.add(queries, number(e.target.rows)), level * WORD)


def _emit_output(
    e: Emitter, kernel: Kernel, scratch: ScratchLayout, slots: Mapping[str, Value],
    functions: Mapping[Layer | KeyValueSums, ir.Function], first: Value, count: Value,
) -> None:  # fmt: skip
    rows = e.at(slots["scratch"], scratch.block)
    if isinstance(kernel.result, KeyValueSums):
        share = e.builder.udiv(first, number(kernel.share))
        own = e.at(slots["output"], e.times(share, WORD * kernel.result.size))
        arguments = [slots["scratch"], count, *(slots[name] for name in SUMS), own]
        e.builder.call(functions[kernel.result], arguments)
        return
    width = WORD * (COLOURS if kernel.result == "colour" else kernel.outputs)
    _copy(e, rows, scratch.row, e.at(slots["output"], e.times(first, width)), width, count, width)


def _copy(e: Emitter, source: Value, source_row: int, target: Value, target_row: int, count: Value, size: int) -> None:
    """Copy `size` bytes of each of `count` rows."""
    vector = e.lanes * WORD
    kind, step = (e.floats, vector) if size % vector == 0 else (FLOAT, WORD)
    with e.loop(count) as row:
        for n in range(0, size, step):
            value = e.load(kind, source, e.times(row.index, source_row), n)
            e.store(value, target, e.times(row.index, target_row), n)
