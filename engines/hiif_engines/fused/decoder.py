"""HIIF's decoder and statistics graphs as one Triton kernel each; their readable references are the graphs themselves.

Weights are those of the fp32 graph, converted to the dtype of the maps: products accumulate in float32 and are never
stored, so the graph's own scaling for half precision is not needed. Only the variant with bit tables and two
projections is fused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from hiif_deploy.errors import EngineError
from hiif_engines.fused.configs import KernelConfig
from hiif_engines.fused.kernels import COLOURS, PLACE, colour_kernel, sum_kernel
from hiif_engines.torch_graph.interpreter import TorchGraph

BITS = 2
"""Position values of a level: one bit per axis."""


class FusedLevels:
    """Level 0 and the attention blocks, which both kernels share, in the kernels' layout on one device."""

    def __init__(self, graph: TorchGraph, dtype: torch.dtype, width: int, norms: int) -> None:
        """Read an fp32 graph with `norms` LayerNorms. EngineError where its architecture differs."""
        if "first.position.table" not in graph.weights:
            raise EngineError(
                "this decoder does not have the architecture of the fused kernels: bit tables at every level"
            )
        self.attentions = _attentions(graph)
        self.epsilons = _epsilons(graph, norms)
        """Epsilons of the LayerNorms, in the order of the graph."""
        self.channels = graph.weights["first.bias"].shape[0]
        """Channels of the maps."""
        self.values = width
        """Values between the levels, without those that fill up to a power of two."""
        for size in (self.channels, self.values):
            if self.attentions and size != _filled(size):
                raise EngineError(f"attention of width {size} does not fit the fused kernels: expected 16, 32, 64, …")
        self.width, self.hidden, self.dtype = _filled(self.values), _filled(self.channels), dtype
        weights = self.weights = {name: _fill(value, {width, self.channels}) for name, value in graph.weights.items()}
        self._cell_weight = weights["first.cell_weight"]
        self._first = _vectors(weights["first.position.table"], weights["first.bias"])
        # Absent in the first statistics graph, whose keys and values are composed with this layer.
        has_second = "second.weight" in weights
        self._second = weights["second.weight"].T.to(dtype).contiguous() if has_second else self._first.to(dtype)
        self._second_bias = weights["second.bias"] if has_second else self._first
        attentions = range(self.attentions)
        self._attention = _stack([weights[f"attention.{n}.second.weight"].T.to(dtype) for n in attentions], self._first)
        self._attention_bias = _stack([weights[f"attention.{n}.second.bias"] for n in attentions], self._first)

    def arguments(self, feeds: Mapping[str, Tensor]) -> list[Tensor | int | float]:
        """Return the kernels' arguments up to the attention blocks, from the graph's inputs (maps [P, M], axis tables,
        cell [2])."""
        cell, first = feeds["cell"], self._first.clone()
        first[0] = cell @ self._cell_weight
        axes = [
            feeds[f"{axis}_{name}"].contiguous()
            for name in ("tap", "distance", "bits")
            for axis in ("row", "column")
        ]  # fmt: skip
        # Sums of `cell` stay on the device: reading a number on the host would make the GPU wait.
        return [
            *(feeds[f"map_{k}"] for k in range(4)), feeds["map_0"].stride(0), feeds["moments"].contiguous(), *axes,
            torch.stack([cell.sum(), (cell * cell).sum()]), first, self._second, self._second_bias,
            _stack([feeds[f"attention_{n}_weight"].to(self.dtype) for n in range(self.attentions)], self._first),
            _stack([feeds[f"attention_{n}_bias"].float() for n in range(self.attentions)], self._first),
            self._attention, self._attention_bias,
        ]  # fmt: skip

    def slice_of(self, config: KernelConfig) -> int:
        """Return the hidden channels per slice, no more than there are."""
        return min(config.slice, self.width, self.hidden)

    @property
    def shapes(self) -> dict[str, int | float]:
        """Sizes and constants that a kernel is compiled for."""
        return {
            "CHANNELS": self.channels, "FIRST_INPUTS": 4 * self.values + 2 + BITS, "FIRST_EPSILON": self.epsilons[0],
            "ATTENTIONS": self.attentions, "WIDTH": self.width, "HIDDEN": self.hidden,
        }  # fmt: skip


class FusedDecoder(FusedLevels):
    """Kernel of the decoder graph: inputs → colours."""

    def __init__(self, graph: TorchGraph, dtype: torch.dtype) -> None:
        """Read the fp32 decoder graph. EngineError where its architecture differs."""
        weights = graph.weights
        later = range(_count(set(weights), r"levels\.(\d+)\.position\.table"))
        if not later or len(later) != _count(set(weights), r"levels\.(\d+)\.weight"):
            raise EngineError(
                "this decoder does not have the architecture of the fused kernels: bit tables at every level"
            )
        super().__init__(graph, dtype, weights["second.weight"].shape[0], 1 + len(later))
        weights = self.weights
        self.levels = 1 + len(later)
        if len(set(self.epsilons[1:])) > 1:
            raise EngineError(f"LayerNorms of epsilons {self.epsilons[1:]} are not fused: expected one for all levels")
        self._level_1 = _stack([weights[f"levels.{n}.weight"].to(dtype) for n in later], self._first)
        tables = [(weights[f"levels.{n}.position.table"], weights[f"levels.{n}.bias"]) for n in later]
        self._table = _stack([_place_table(*table, dtype) for table in tables], self._first)
        self._level_2 = _stack([weights[f"levels.{n}.second.weight"].T.to(dtype) for n in later[:-1]], self._first)
        self._level_bias = _stack([weights[f"levels.{n}.second.bias"] for n in later[:-1]], self._first)
        self._last, self._last_bias = _last(weights, later[-1], dtype)

    def __call__(self, feeds: Mapping[str, Tensor], config: KernelConfig) -> dict[str, Tensor]:
        """Return `colour` [R · W, 3] float32 for the decoder graph's inputs."""
        rows, columns = feeds["row_tap"].shape[1], feeds["column_tap"].shape[2]
        colour = torch.empty((rows * columns, 3), dtype=torch.float32, device=feeds["cell"].device)
        colour_kernel[(config.grid(rows * columns),)](
            *self.arguments(feeds), self._level_1, self._table, self._level_2, self._level_bias, self._last,
            self._last_bias, colour, rows, columns, **self.constants(config), **config.compiled,
        )  # fmt: skip
        return {"colour": colour}

    def constants(self, config: KernelConfig) -> dict[str, int | float]:
        """Return all that the kernel is compiled for."""
        levels = {"INPUTS": self.values + BITS, "EPSILON": self.epsilons[1], "LEVELS": self.levels}
        return {**self.shapes, **levels, "SLICE": self.slice_of(config), "BLOCK": config.block}


class FusedStatistics(FusedLevels):
    """Kernel of a statistics graph: inputs → sums, in two stages of fixed order, so that equal calls give equal
    bits."""

    def __init__(self, graph: TorchGraph, dtype: torch.dtype) -> None:
        """Read the fp32 graph. EngineError where its architecture differs."""
        weights = graph.weights
        self.heads, self.head = (int(size) for size in graph.contract.outputs[0].shape[:2])
        super().__init__(graph, dtype, self.heads * self.head, 2)
        weights = self.weights
        self._projection = weights["key_value.projection.weight"].T.to(dtype).contiguous()
        self._bias = weights["unsqueeze"].flatten()

    def __call__(self, feeds: Mapping[str, Tensor], config: KernelConfig) -> dict[str, Tensor]:
        """Return `outer` [heads, d, d], `key` and `value` [heads, d], float64, for the statistics graph's inputs."""
        rows, columns = feeds["row_tap"][0].numel(), feeds["column_tap"][0].numel()
        # A grid has [·, R, 1] and [·, 1, W], a list of N queries [·, 1, N] and [·, 1, N].
        is_list = feeds["row_tap"].shape[1:] == (1, columns)
        programs = config.grid(columns if is_list else rows * columns)
        constants = self.constants(config, is_list=is_list)
        at_once = int(constants["HEADS_AT_ONCE"])
        side = at_once * self.head

        def zeros(*shape: int) -> Tensor:
            return torch.zeros((programs, *shape), device=feeds["cell"].device)

        outer, key, value = zeros(self.heads // at_once, side, side), zeros(self.width), zeros(self.width)
        sum_kernel[(programs,)](
            *self.arguments(feeds), self._projection, self._bias, outer, key, value, rows, columns, **constants,
            **config.compiled,
        )  # fmt: skip
        # One product multiplies several heads with each other: only the squares of each head with itself are kept.
        squares = outer.sum(0, dtype=torch.float64).reshape(-1, at_once, self.head, at_once, self.head)
        own = squares.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).reshape(self.heads, self.head, self.head)
        sums = {"key": key, "value": value}
        halves = {name: part.sum(0, dtype=torch.float64).reshape(self.heads, -1) for name, part in sums.items()}
        return {"outer": own, **halves}

    def constants(self, config: KernelConfig, *, is_list: bool = False) -> dict[str, int | float]:
        """Return all that the kernel is compiled for."""
        part = self.slice_of(config)
        at_once = min(self.heads, max(1, part // self.head))
        heads = {"HEAD": self.head, "HEAD_EPSILON": self.epsilons[1], "HEADS_AT_ONCE": at_once, "LIST": is_list}
        return {**self.shapes, **heads, "SLICE": part, "BLOCK": config.block}


def _filled(size: int) -> int:
    """Return the power of two, at least 16, that a kernel has for that many values."""
    return max(16, 1 << (size - 1).bit_length())


def _fill(value: Tensor, sizes: set[int]) -> Tensor:
    """Fill up the axes of these sizes with zeros, which stay zero through products, tables, GELU and sums."""
    margins = [_filled(size) - size if size in sizes else 0 for size in value.shape]
    return torch.nn.functional.pad(value, [part for margin in reversed(margins) for part in (0, margin)])


def _attentions(graph: TorchGraph) -> int:
    """Return how many attention blocks with a folded matrix precede the graph's output."""
    blocks = _count({tensor.name for tensor in graph.contract.inputs}, r"attention_(\d+)_weight")
    if _count(set(graph.weights), r"attention\.(\d+)\.second\.weight") != blocks:
        raise EngineError("attention with a single projection is not fused: the kernels have two, proj1 and proj2")
    return blocks


def _epsilons(graph: TorchGraph, norms: int) -> tuple[float, ...]:
    found = graph.constants("Add", before="Sqrt")
    if len(found) != norms:
        raise EngineError(
            f"graph {graph.contract.key} adds {len(found)} constants below its roots; the fused kernels have {norms} "
            "LayerNorms, each with an epsilon"
        )
    return found


def _count(names: set[str], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)


def _vectors(table: Tensor, bias: Tensor) -> Tensor:
    """Return [4, M]: the base, the row bit's part, the column bit's part, and the bias after scaling."""
    return torch.stack([table[0], table[2] - table[0], table[1] - table[0], bias])


def _place_table(table: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [PLACE, M]: the rows that `place_columns` multiplies, each in two parts that sum up to float32's value."""
    base, row, column, bias = _vectors(table, bias)
    parts = [part for value in (base, row, column) for part in _split(value, dtype)]
    high, low = _split(bias, dtype)
    rows = torch.stack([*parts, high, high, low])
    return torch.cat([rows, rows.new_zeros(PLACE.value - len(rows), rows.shape[1])])


def _split(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    high = value.to(dtype)
    return high, (value - high.float()).to(dtype)


def _last(weights: Mapping[str, Tensor], n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the product to colours and its bias, padded to the width of a matrix unit."""
    weight, bias = weights[f"levels.{n}.second.weight"], weights[f"levels.{n}.second.bias"]
    padded = torch.zeros((weight.shape[1], COLOURS.value), dtype=dtype, device=weight.device)
    padded[:, : len(weight)] = weight.T.to(dtype)
    return padded, torch.cat([bias, bias.new_zeros(COLOURS.value - len(bias))])


def _stack(parts: list[Tensor], like: Tensor) -> Tensor:
    """Stack tensors; without any, return an unread placeholder on the same device."""
    return torch.stack(parts).contiguous() if parts else torch.zeros(1, device=like.device)
