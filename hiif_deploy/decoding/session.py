"""The protocol of a loaded graph, and the precisions that a graph can be computed in."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

ComputePrecision = Literal["fp32", "fp16", "bf16", "int8"]
"""What a graph is computed in. fp32 and fp16 are graphs of the bundle; bf16 and int8 are approximate modes of a
processor that run the fp32 graphs."""
REDUCED_PRECISIONS: tuple[ComputePrecision, ...] = ("bf16", "int8")
"""Approximate modes, which only engines for processors have."""
Tensors = Mapping[str, NDArray[Any]]
"""Tensor name → array."""


class Session(Protocol):
    """One loaded graph. `run` may be called from several threads at once."""

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Return the graph's outputs for its inputs; other feeds are ignored. The arrays are the caller's."""
        ...
