"""HIIF's decoder graph as one Triton kernel; its readable twin is the graph itself, in `torch_graph.py`.

Weights are those of the fp32 graph, brought to the type of the maps: products add in float32 and are never stored, so
the graph's own scaling for half precision is not needed. Only the form with bit tables and two projections is fused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hiif_deploy.errors import EngineError
from hiif_engines.fused_kernels import COLOURS, colour_kernel

EPSILON = 1e-5
"""Of HIIF's LayerNorms."""
BITS = 2
"""Position values of a level: one digit per axis."""


@dataclass(frozen=True)
class Cut:
    """How a kernel cuts its work; a test shows that the answer does not depend on it."""

    block: int = 64
    """Queries of a block, a power of two."""
    slice: int = 32
    """Hidden channels between two products at once, a power of two."""
    programs: int = 132
    """Programs that share the blocks: as many as the GPU has multiprocessors."""


class FusedDecoder:
    """Weights in the kernel's layout, on one device."""

    def __init__(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        """`weights` by name as the fp32 decoder graph holds them. EngineError where its form is another."""
        names = set(weights)
        self.levels = 1 + _count(names, r"levels\.(\d+)\.weight")
        self.attentions = _count(names, r"attention\.(\d+)\.second\.weight")
        later = range(self.levels - 1)
        wanted = {f"levels.{n}.position.table" for n in later} | {"first.position.table", "second.weight"}
        if not wanted <= names or self.levels < 2:
            raise EngineError("this decoder is not of the form that the fused kernel has: bit tables at every level")
        self.width, self.hidden = weights["second.weight"].shape
        self.dtype = dtype
        self._cell_weight = weights["first.cell_weight"]
        self._first = _vectors(weights["first.position.table"], weights["first.bias"])
        self._second = weights["second.weight"].T.to(dtype).contiguous()
        self._second_bias = weights["second.bias"]
        attentions = range(self.attentions)
        self._attention = _stack([weights[f"attention.{n}.second.weight"].T.to(dtype) for n in attentions])
        self._attention_bias = _stack([weights[f"attention.{n}.second.bias"] for n in attentions])
        self._level_1 = _stack([weights[f"levels.{n}.weight"].to(dtype) for n in later])
        tables = [(weights[f"levels.{n}.position.table"], weights[f"levels.{n}.bias"]) for n in later]
        self._vectors = _stack([_vectors(*table) for table in tables])
        self._level_2 = _stack([weights[f"levels.{n}.second.weight"].T.to(dtype) for n in later[:-1]])
        self._level_bias = _stack([weights[f"levels.{n}.second.bias"] for n in later[:-1]])
        self._last, self._last_bias = _last(weights, later[-1], dtype)

    def __call__(self, feeds: Mapping[str, Tensor], cut: Cut) -> Tensor:
        """`colour` [R · W, 3] float32, given the decoder graph's inputs (maps of this type, folded matrices too)."""
        rows, columns = feeds["row_tap"].shape[1], feeds["column_tap"].shape[2]
        cell = feeds["cell"]
        first = self._first.clone()
        first[0] = cell @ self._cell_weight
        folded = _stack([feeds[f"attention_{n}_weight"].to(self.dtype) for n in range(self.attentions)])
        folded_bias = _stack([feeds[f"attention_{n}_bias"].float() for n in range(self.attentions)])
        axes = [
            feeds[f"{axis}_{name}"].contiguous()
            for name in ("tap", "distance", "bits")
            for axis in ("row", "column")
        ]  # fmt: skip
        colour = torch.empty((rows * columns, 3), dtype=torch.float32, device=cell.device)
        colour_kernel[(min(cut.programs, -(-rows * columns // cut.block)),)](
            *(feeds[f"map_{k}"] for k in range(4)), feeds["map_0"].stride(0), feeds["moments"].contiguous(), *axes,
            float(cell.sum()), float((cell * cell).sum()), first, self._second, self._second_bias, folded,
            folded_bias, self._attention, self._attention_bias, self._level_1, self._vectors, self._level_2,
            self._level_bias, self._last, self._last_bias, colour, rows, columns, CHANNELS=self.hidden,
            FIRST_INPUTS=4 * self.width + 2 + BITS, FIRST_EPSILON=EPSILON, INPUTS=self.width + BITS,
            EPSILON=EPSILON, ATTENTIONS=self.attentions, LEVELS=self.levels, WIDTH=self.width, HIDDEN=self.hidden,
            SLICE=cut.slice, BLOCK=cut.block,
        )  # fmt: skip
        return colour


def _count(names: set[str], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)


def _vectors(table: Tensor, bias: Tensor) -> Tensor:
    """[4, M]: what is added without digits, for the row's, for the column's, and after scaling."""
    return torch.stack([table[0], table[2] - table[0], table[1] - table[0], bias])


def _last(weights: Mapping[str, Tensor], n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The product to colours and its bias, padded to what a matrix unit takes."""
    weight, bias = weights[f"levels.{n}.second.weight"], weights[f"levels.{n}.second.bias"]
    padded = torch.zeros((weight.shape[1], COLOURS.value), dtype=dtype, device=weight.device)
    padded[:, : len(weight)] = weight.T.to(dtype)
    return padded, torch.cat([bias, bias.new_zeros(COLOURS.value - len(bias))])


def _stack(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).contiguous() if parts else torch.zeros(1)
