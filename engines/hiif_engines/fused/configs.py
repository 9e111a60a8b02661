"""How a fused kernel divides its work: a table of configurations, and which of them a GPU can run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hiif_deploy.errors import EngineError

Capability = tuple[int, int]
"""CUDA compute capability, major and minor."""
MIN_CAPABILITY: Capability = (8, 0)
"""Below it Triton compiles products to single multiplications, not to matrix instructions."""
SHARED_MEMORY: dict[Capability, int] = {(8, 0): 163 << 10, (8, 7): 163 << 10, (9, 0): 227 << 10, (10, 0): 227 << 10}
"""Shared memory that a program may use, in bytes (CUDA C++ Programming Guide, technical specifications)."""
SMALLEST_SHARED_MEMORY = 99 << 10
"""That of all others from 8.0 on, as 8.6, 8.9 and 12.0."""
INTERPRETER_PROCESSORS = 2
"""Multiprocessors that Triton's interpreter stands for."""


@dataclass(frozen=True)
class KernelConfig:
    """How a kernel divides its work. Values depend on it by the order of sums alone, which a test compares."""

    block: int = 64
    """Queries per block, a power of two."""
    slice: int = 32
    """Hidden channels per slice between two products, and columns of keys that meet as many of values; a power of
    two."""
    programs: int = 2
    """Programs that share the blocks."""
    warps: int = 4
    """Groups of 32 threads per program."""
    stages: int = 1
    """Slices of weights in shared memory: with two, one is multiplied while the next arrives."""

    @property
    def compiled(self) -> dict[str, int | bool]:
        """Return what Triton compiles a kernel with besides its sizes."""
        # Fused multiply-adds: from version 3.10 on, Triton leaves them out unless they are requested.
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}

    def grid(self, queries: int) -> int:
        """Return how many programs run: no more than there are blocks."""
        return min(self.programs, -(-queries // self.block))


@dataclass(frozen=True)
class TableRow:
    """A configuration and what it needs."""

    block: int
    """See `KernelConfig`."""
    slice: int
    """See `KernelConfig`."""
    warps: int
    """See `KernelConfig`."""
    stages: int
    """See `KernelConfig`."""
    resident: int
    """Programs that the registers of a multiprocessor hold at once."""
    shared: int
    """Bytes of shared memory that a program needs at most (a test compiles it for every architecture)."""

    def config(self, processors: int) -> KernelConfig:
        """Return the configuration for a GPU of so many multiprocessors."""
        return KernelConfig(self.block, self.slice, self.resident * processors, self.warps, self.stages)


NARROW = 64
"""Widths up to this one keep everything on the chip in any configuration."""
NARROW_ROWS = (TableRow(64, 64, 4, 2, 2, 49_152), TableRow(64, 32, 4, 2, 2, 32_768))
WIDE_ROWS = {
    "decoder": (
        TableRow(128, 64, 8, 2, 1, 204_800), TableRow(64, 64, 8, 2, 1, 114_688), TableRow(64, 32, 8, 2, 1, 77_824),
        TableRow(32, 32, 8, 2, 1, 53_248),
    ),
    "statistics_0": (TableRow(64, 64, 4, 1, 2, 98_304), TableRow(64, 32, 4, 1, 2, 65_536)),
    "statistics": (
        TableRow(128, 64, 8, 1, 1, 131_072), TableRow(64, 64, 8, 1, 1, 98_304), TableRow(64, 32, 8, 1, 1, 65_536),
    ),
}  # fmt: skip
"""Kernel → configurations at width 256, the one expected to be fastest first (design/gpu.md). Blocks of 128 queries
halve the weights' traffic and need the shared memory of a data centre's GPU."""


def rows_of(kernel: str, width: int, capability: Capability) -> list[TableRow]:
    """Return the rows for a kernel (`decoder`, `statistics_0`, …) that a GPU can run, the best first.

    EngineError where its architecture is too old.
    """
    if capability < MIN_CAPABILITY:
        raise EngineError(
            f"compute capability {capability[0]}.{capability[1]}: the fused kernels need 8.0, from which on Triton has "
            "matrix instructions"
        )
    rows = NARROW_ROWS if width <= NARROW else WIDE_ROWS.get(kernel, WIDE_ROWS["statistics"])
    shared = SHARED_MEMORY.get(capability, SMALLEST_SHARED_MEMORY)
    return [row for row in rows if row.shared <= shared]


def configs(kernel: str, width: int, device: torch.device) -> list[KernelConfig]:
    """Return configurations for a kernel on a device, the best first; EngineError where the GPU can run none."""
    if device.type != "cuda":
        return [KernelConfig(programs=INTERPRETER_PROCESSORS)]
    properties = torch.cuda.get_device_properties(device)
    rows = rows_of(kernel, width, (properties.major, properties.minor))
    return [row.config(properties.multi_processor_count) for row in rows]
