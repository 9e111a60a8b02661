"""Instruction sets that native code is written for: one short description each, for the same kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hiif_deploy.backends.options import IsaName
from hiif_deploy.decoding.session import ComputePrecision

TILE = 16
"""Rows of a tile, and 4-byte values in a row of it, where the processor has tiles."""


@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """An instruction set, and how kernels use its vector registers."""

    name: IsaName
    machine: str
    """Its processors, as LLVM's triples begin."""
    lanes: int
    """Values of float32 per vector."""
    registers: int
    """Vector registers."""
    rows: int
    """Rows per tile of a product."""
    vectors: int
    """Vectors of outputs per panel, where the matrix has as many. A tile's sums, a vector of the panel each and a
    row's value are in registers at once."""
    needs: frozenset[str]
    """LLVM's names of the features that its code uses in every precision."""
    precisions: Mapping[ComputePrecision, frozenset[str]]
    """Precision → features that its code uses beside those."""
    unused: tuple[str, ...] = ()
    """Beginnings of names of features that LLVM must not use where the processor has them."""
    tiles: bool = False
    """Whether products are those of the processor's own tiles, `TILE` rows of 64 bytes (AMX)."""
    beside: IsaName | None = None
    """Target of what is computed in float32 beside these products; None: this one."""

    def __repr__(self) -> str:
        """Name everything that code for it depends on, in the same words in every process."""
        return f"{self.name}:{self.lanes}:{self.registers}:{self.rows}:{self.vectors}"

    def panel(self, outputs: int) -> int:
        """Return the outputs per panel for a number of outputs."""
        widest = self.vectors * self.lanes
        return widest if outputs % widest == 0 else self.lanes

    def with_rows(self, rows: int) -> Target:
        """Return the target with another number of rows per tile, and vectors per panel for as many sums."""
        return replace(self, rows=rows, vectors=self.rows * self.vectors // rows)

    @property
    def in_float32(self) -> Target:
        """The target of what is computed in float32."""
        return TARGETS[self.beside] if self.beside else self

    def padded(self, values: int) -> int:
        """Return a number of values, rounded up to whole vectors."""
        return -(-values // self.lanes) * self.lanes


AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
TARGETS = {
    target.name: target
    for target in (
        # Two tiles of rows with two of outputs: the most products per tile that is loaded, of eight tiles in all.
        Target(
            "amx", "x86_64", lanes=16, registers=32, rows=2 * TILE, vectors=2,
            needs=AVX512 | {"amx-tile"},
            precisions={"bf16": frozenset({"amx-bf16", "avx512bf16"}), "int8": frozenset({"amx-int8"})},
            tiles=True, beside="avx512",
        ),
        Target(
            "avx512", "x86_64", lanes=16, registers=32, rows=12, vectors=2,
            needs=AVX512,
            precisions={
                "fp32": frozenset(), "bf16": frozenset({"avx512bf16"}), "int8": frozenset({"avx512vnni"}),
            },
        ),
        Target(
            "avx2", "x86_64", lanes=8, registers=16, rows=6, vectors=2,
            needs=frozenset({"avx2", "fma"}),
            # AVX-NE-CONVERT converts to bf16, but nothing multiplies it in these registers.
            precisions={"fp32": frozenset(), "int8": frozenset({"avxvnni"})},
            unused=("avx512", "avx10", "evex512"),
        ),
        # Every processor of this kind has the instructions.
        Target(
            "neon", "aarch64", lanes=4, registers=32, rows=6, vectors=4,
            needs=frozenset(), precisions={"fp32": frozenset()},
        ),
    )
}  # fmt: skip
"""Name → target, the fastest first."""
