"""The protocol of a loaded graph, and the precisions that a graph can be computed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

Arithmetic = Literal["fp32", "fp16", "bf16", "int8"]
"""What is computed in: fp32 and fp16 are graphs of the bundle, bf16 and int8 are a processor's way with those of fp32,
approximate."""
LOW: tuple[Arithmetic, ...] = ("bf16", "int8")
"""Arithmetics that only OpenVINO and native code have."""
Tensors = Mapping[str, NDArray[Any]]
"""Tensor name → array."""


class Session(Protocol):
    """One loaded graph. `run` may be called from several threads at once."""

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Answer the graph's outputs for its inputs; other feeds are ignored. The arrays are the caller's."""
        ...
