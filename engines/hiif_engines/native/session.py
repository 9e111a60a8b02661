"""A kernel as a session: tensors of a stage graph in, its output out."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.decoding.session import Tensors
from hiif_deploy.errors import EngineError
from hiif_engines.native.compile import Argument, Call, address, aligned
from hiif_engines.native.crew import Crew
from hiif_engines.native.emit import COLOURS, WORD
from hiif_engines.native.fronts.corners import RELATIVES
from hiif_engines.native.fronts.gather import DISTANCES, MAPS, TAPS
from hiif_engines.native.kernel import BLOCK, Kernel
from hiif_engines.native.layer import ScratchLayout
from hiif_engines.native.products.precision import FP32, MatrixPrecision
from hiif_engines.native.stage import FirstWeights, Folded, FrontWeights, Product, Stage
from hiif_engines.native.sums import HEAD, KeyValueSums

Slots = dict[str, NDArray[Any]]


class NativeSession:
    """Runs one kernel, whose blocks threads of the crew share. `run` may be called from several threads at once."""

    def __init__(
        self, graph: GraphContract, stage: Stage, kernel: Kernel, call: Call, memory: ThreadMemory, crew: Crew
    ) -> None:
        """`memory` is that of the calling thread."""
        self.graph, self.kernel = graph, kernel
        self._stage, self._call, self._memory, self._crew = stage, call, memory, crew
        self._state = next((tensor.name for tensor in graph.inputs if tensor.name.startswith("state_")), "")
        self._require_sizes()
        self._packed, self._names = self._pack(), kernel.slots
        self._fixed: dict[str, Argument] = {name: address(array) for name, array in self._packed.items()}
        """Addresses of what is packed: Python would look them up longer than a small call computes."""
        self._folded: dict[str, tuple[Any, Slots]] = {}
        self._folding = threading.Lock()

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run the kernel on the stage graph's inputs and return its outputs, [queries, …] or sums [heads, …].

        Where `feeds` has a fitting array of the output's name, it is written there; that may be the state that is read.
        EngineError where an input does not have the contract's shape.
        """
        self._require_shapes(feeds)
        slots: Slots = {"taken": np.zeros(1, np.int64)}
        queries = self._queries(feeds)
        numbers: dict[str, Argument] = {"queries": queries}
        front = self._stage.front
        if front is None:
            slots["state"] = _array(feeds[self._state], np.float32)
        else:
            numbers |= {"rows": feeds["row_tap"].shape[1], "columns": feeds["column_tap"].shape[2]}
            slots |= _cornered(front, feeds) if isinstance(front, FrontWeights) else _gathered(front, feeds)
        if "row_bits" in feeds:
            slots["codes"] = _codes(feeds["row_bits"], feeds["column_bits"], self.kernel.target.rows)
        for n, layer in enumerate(self._stage.layers):
            if isinstance(layer.first, Folded):
                slots |= self._fold(n, layer.first, feeds)
        output = slots["output"] = self._output(queries, feeds)
        values = self._fixed | slots | numbers
        shared = [values.get(name) for name in self._names[1:]]
        self._crew.run(lambda: self._call([self._memory.bytes, *shared]), queries * self.kernel.macs)
        return self._named(output)

    def work(self, feeds: Tensors) -> tuple[int, int]:
        """Return the multiplications of a call, and its bytes: rows once, matrices once for each block."""
        queries = self._queries(feeds)
        matrices = sum(array.nbytes for array in self._packed.values())
        behind = 0 if isinstance(self.kernel.result, KeyValueSums) else self.kernel.outputs
        rows = queries * WORD * (self.kernel.inputs * (1 if self._state else len(MAPS)) + behind)
        return queries * self.kernel.macs, rows + -(-queries // self.kernel.block) * matrices

    def _queries(self, feeds: Tensors) -> int:
        return len(feeds[self._state]) if self._state else feeds["row_tap"].shape[1] * feeds["column_tap"].shape[2]

    def _require_sizes(self) -> None:
        """Raise EngineError where the contract and the weights disagree on sizes: the kernel cannot check them."""
        levels = 1 + max((step.level for step in self.kernel.steps), default=0)
        known: dict[str, tuple[int, ...]] = dict.fromkeys((*TAPS, *DISTANCES, *RELATIVES, "cell", "moments"), (2,))
        known |= dict.fromkeys((self._state, *MAPS), (self.kernel.inputs,))
        known |= self._stage.front.sizes if isinstance(self._stage.front, FrontWeights) else {}
        for step, layer in zip(self.kernel.steps, self._stage.layers, strict=True):
            if isinstance(layer.first, Folded):
                hidden = step.layer.hidden
                known |= {layer.first.weight: (step.layer.inputs, hidden), layer.first.bias: (hidden,)}
        for tensor in self.graph.inputs:
            sizes = tuple(size for size in tensor.shape if isinstance(size, int) and size != 1)
            is_bits = tensor.name.endswith("_bits")
            expected = (levels,) if is_bits else known.get(tensor.name)
            if not (sizes[:1] >= (levels,) if is_bits else sizes == expected):
                raise EngineError(
                    f"graph {self.graph.key}: {tensor.name} is {tensor.shape}, the weights need {expected}"
                )

    def _require_shapes(self, feeds: Tensors) -> None:
        """Raise EngineError where an input differs from the contract, or a tap lies beyond the maps."""
        sizes: dict[str, int] = {}
        for tensor in self.graph.inputs:
            shape = feeds[tensor.name].shape
            pairs = zip(tensor.shape, shape, strict=False)
            expected = tuple(sizes.setdefault(size, found) if isinstance(size, str) else size for size, found in pairs)
            if len(shape) != len(tensor.shape) or shape != expected:
                raise EngineError(f"graph {self.graph.name}: {tensor.name} is {shape}, expected {expected}")
        expected_queries = sizes.get("rows", 0) * sizes.get("columns", 0)
        if expected_queries and self._state and expected_queries != sizes["queries"]:
            raise EngineError(
                f"graph {self.graph.name}: {self._state} is of {sizes['queries']} queries, expected {expected_queries}"
            )
        if self._stage.front is not None:
            rows, columns = (feeds[name] for name in TAPS)
            if min(rows.min(), columns.min()) < 0 or rows.max() + columns.max() >= sizes["pixels"]:
                raise EngineError(f"graph {self.graph.name}: taps beyond the {sizes['pixels']} pixels of the maps")

    def _pack(self) -> Slots:
        slots: Slots = {}
        for n, (weights, step) in enumerate(zip(self._stage.layers, self.kernel.steps, strict=True)):
            if isinstance(weights.first, Product):
                slots |= self._product(f"{n}.first", weights.first, step.layer.first)
            if weights.second is not None:
                slots |= self._product(f"{n}.second", weights.second, step.layer.second)
            if weights.rest is not None:
                slots |= self._product(f"{n}.triangle", weights.rest.triangle, step.layer.first)
                slots[f"{n}.mean"] = weights.rest.mean
        if self._stage.sums is not None:
            packed = self._product("projection", self._stage.sums.projection, FP32)
            slots |= {"projection": packed["projection"], "projection_bias": packed["projection_vectors"]}
        return slots

    def _fold(self, n: int, names: Folded, feeds: Tensors) -> Slots:
        """Return a folded matrix, packed once for all calls with the same array."""
        weight = feeds[names.weight]
        # All threads begin a pass at once; without the lock each of them would pack.
        with self._folding:
            known, packed = self._folded.get(names.weight, (None, {}))
            if known is not weight:
                product = Product(_array(weight, np.float32), _array(feeds[names.bias], np.float32))
                packed = self._product(f"{n}.first", product, self.kernel.steps[n].layer.first)
                self._folded[names.weight] = weight, packed
        return packed

    def _product(self, name: str, product: Product, precision: MatrixPrecision) -> Slots:
        """Return the panels of a product, and the vectors that belong to them."""
        vectors = [product.bias[None], precision.scales(product.weight)]
        if product.table is not None:
            vectors.append(product.table)
        return {
            name: aligned(precision.pack(product.weight, self.kernel.target)),
            f"{name}_vectors": np.concatenate(vectors).astype(np.float32),
        }

    def _output(self, queries: int, feeds: Tensors) -> NDArray[Any]:
        kind, given = self.kernel.result, feeds.get(self.graph.outputs[0].name)
        if isinstance(kind, KeyValueSums):
            return np.zeros((-(-queries // self.kernel.share), kind.size), np.float32)
        shape = queries, COLOURS if kind == "colour" else self.kernel.outputs
        # A kernel copies the rows of a block before it writes any.
        if given is not None and given.shape == shape and given.dtype == np.float32 and given.flags.c_contiguous:
            return given
        return np.empty(shape, np.float32)

    def _named(self, output: NDArray[Any]) -> dict[str, NDArray[Any]]:
        kind = self.kernel.result
        names = [tensor.name for tensor in self.graph.outputs]
        if not isinstance(kind, KeyValueSums):
            return {names[0]: output}
        output, outer = output.sum(axis=0), kind.heads * HEAD * HEAD
        parts = output[:outer].reshape(kind.heads, HEAD, HEAD), *output[outer:].reshape(2, kind.heads, HEAD)
        return dict(zip(names, parts, strict=True))


class ThreadMemory(threading.local):
    """Scratch memory of the calling thread, shared by all sessions."""

    def __init__(self, scratch: ScratchLayout) -> None:
        self.bytes = aligned(np.zeros(scratch.size(BLOCK), np.uint8))


def _gathered(front: FirstWeights, feeds: Tensors) -> Slots:
    cell = _array(feeds["cell"], np.float32)
    level = np.concatenate([front.bias[None], front.table + cell @ front.cell]).astype(np.float32)
    return {
        **{name: _array(feeds[name], np.float32) for name in (*MAPS, "moments", *DISTANCES)},
        **{name: _array(feeds[name], np.int64) for name in TAPS},
        "cell_moments": np.array([cell.sum(), (cell * cell).sum()], np.float32),
        "level_0": level,
    }


def _cornered(front: FrontWeights, feeds: Tensors) -> Slots:
    return {
        **{name: _array(feeds[name], np.float32) for name in (*front.maps, *front.tables)},
        **{name: _array(feeds[name], np.int64) for name in TAPS},
        "level_0": _array(front.level(_array(feeds["cell"], np.float32)), np.float32),
    }


def _codes(rows: NDArray[Any], columns: NDArray[Any], margin: int) -> NDArray[np.int32]:
    """Return [levels, queries + margin]: 2 · row bit + column bit of every level, padded so that tiles are complete."""
    levels, queries = len(rows), rows.shape[1] * columns.shape[2]
    codes = np.zeros((levels, queries + margin), np.int32)
    codes[:, :queries] = (2 * rows + columns).reshape(levels, queries)
    return codes


def _array(value: Any, dtype: type[np.generic]) -> NDArray[Any]:
    return np.ascontiguousarray(value, dtype)
