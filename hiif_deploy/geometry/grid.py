"""The query grid of a regular output picture, one axis at a time.

A decoder is queried at the centre of every output pixel. On a regular grid everything that it needs to know about a
query is separable: a row part and a column part. An `Axis` holds one of the two. This file has the rule `corners` of
HIIF, LIIF, LTE and SRNO; `axes.py` lists all rules.

The arithmetic of `axis_table` repeats the published evaluation in float32, operation by operation, because the
hierarchical bits lie on rounding edges at ×2, ×4 and ×8 (float64 or a fused multiply-add gives other bits).
"""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from hiif_deploy.errors import OptionError, ScaleError

BitRule = Literal["reference", "exact"]
"""How the hierarchical bits are computed: `reference` is the float32 arithmetic of the public code, `exact` is
integer arithmetic on the true position and does not depend on rounding."""

AxisRule = Literal["corners", "top-left", "ciaosr", "clit"]
"""Rule for the source pixels that a query reads and its position data; `axes.AXES` has a function for each."""

F32 = np.float32
EDGE = 1e-6
"""Shift and clamp of the published corner rule, in normalised coordinates."""


@dataclass(frozen=True)
class Axis:
    """Position data of `count` consecutive output pixels along one axis.

    Shapes are those of rule `corners`, whose taps are the lower and the upper corner. Other rules have another number
    of taps, and no `bits`.
    """

    taps: NDArray[np.int32]
    """[2, count]: source index of every pixel that is read, each in [0, source); the first ones never decrease."""
    relative: NDArray[np.float32]
    """[2, count]: query − tap, signed, in half source pixels."""
    distance: NDArray[np.float32]
    """[2, count]: |query − tap| in source pixels; about 1 in all inside, up to 0.5 each where both taps are one."""
    local: NDArray[np.float32]
    """[count]: position relative to the lower corner, the value whose binary digits are `bits`; in [0, 1] but for
    reference bits before the first centre of a tiny picture."""
    bits: NDArray[np.int32]
    """[levels, count]: binary digits of the local position, most significant first."""
    skip_taps: NDArray[np.int32]
    """[2, count]: the two source pixels of half-pixel bilinear interpolation with a replicated border."""
    skip_weight: NDArray[np.float32]
    """[count]: weight of the upper one, in [0, 1)."""

    @property
    def count(self) -> int:
        """Number of output pixels on the axis."""
        return int(self.taps.shape[-1])

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Self:
        """Return the axis of some of its pixels, ascending (views for a slice)."""
        return type(self)(*(getattr(self, name)[..., part] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class WeightedAxis(Axis):
    """An axis of a rule whose taps may lie beyond the picture, or be weighted."""

    weight: NDArray[np.float32]
    """[taps, count]: weight of each tap."""


def axis_table(
    source: int, target: int, window: tuple[int, int] | None = None, *, levels: int = 6, bits: BitRule = "reference"
) -> Axis:
    """Return the table of one axis of `target` output pixels over `source` input pixels.

    `window=(start, stop)` selects a part of the axis, equal to slicing it. Source: design/model.md C2, C5, C6 and
    H3–H5; HIIF (arXiv 2412.03748) section 3. Raises ScaleError for sizes below 1, for target < source, and for a window
    outside the axis.
    """
    start, stop = check_axis(source, target, window)
    if bits not in get_args(BitRule):
        raise OptionError(f"bit rule {bits!r}: expected one of {', '.join(get_args(BitRule))}")
    index = np.arange(start, stop, dtype=np.int64)
    query = pixel_centres(target, index)
    low = nearest(query, source, -1)
    high = nearest(query, source, +1)
    relative = np.stack([_relative(query, low, source), _relative(query, high, source)])
    # Halving is exact: HIIF's positions in whole source pixels and the others' in half ones have the same digits.
    lower = relative[0] / F32(2)
    local = np.where(lower > 0, lower, F32(1 / source) - lower).astype(F32)
    digits = reference_bits(local, levels) if bits == "reference" else exact_bits(source, target, index, levels)
    if bits == "exact":
        local = exact_local(source, target, index)
    return Axis(**axis_fields(source, target, index, np.stack([low, high]), relative, local, digits))


def axis_fields(
    source: int, target: int, index: NDArray[np.int64], taps: NDArray[np.int32], relative: NDArray[np.float32],
    local: NDArray[np.float32], bits: NDArray[np.int32] | None = None,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Return the fields of an `Axis` for pixels `index` [count]; those of the bilinear skip are the same for all rules.

    `taps` [taps, count], `relative` [tokens, count], `local` [count] and `bits` [levels, count] (None: no levels) are
    the rule's own.
    """
    skip_taps, skip_weight = bilinear_taps(source, target, index)
    return {
        "taps": taps, "relative": relative, "distance": (np.abs(relative) / F32(2)).astype(F32, copy=False),
        "local": local, "bits": np.zeros((0, index.size), dtype=np.int32) if bits is None else bits,
        "skip_taps": skip_taps, "skip_weight": skip_weight,
    }  # fmt: skip


def check_axis(source: int, target: int, window: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the window as (start, stop); ScaleError for invalid sizes or windows."""
    if source < 1 or target < 1:
        raise ScaleError(f"axis of {source} → {target} pixels: both sizes must be at least 1")
    if target < source:
        raise ScaleError(
            f"output of {target} pixels for {source} input pixels: scale {target / source:.4g} is below 1; "
            "this model only upscales, so request at least the input size"
        )
    start, stop = window or (0, target)
    if not 0 <= start < stop <= target:
        raise ScaleError(f"window {start}:{stop} does not lie inside an axis of {target} pixels")
    return start, stop


def pixel_centres(count: int, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return normalised centres [n] −1 + 1/count + (2/count)·i of pixels `index` [n], in float32.

    Scalars are rounded once, then one multiply and one add, as published.
    """
    step = F32(2.0 / count)
    return (step * index.astype(F32) + F32(-1.0 + 1.0 / count)).astype(F32)


def nearest(query: NDArray[np.float32], source: int, side: int) -> NDArray[np.int32]:
    """Return the source pixels [n] nearest to queries [n] moved half a source pixel to `side` (−1 or +1), in
    float32."""
    return nearest_pixel(query + F32(side / source + EDGE), source)


def nearest_pixel(position: NDArray[np.float32], source: int) -> NDArray[np.int32]:
    """Return the source pixels [n] nearest to positions [n], clamped to the picture, halves to even."""
    clamped = np.clip(position, F32(-1 + EDGE), F32(1 - EDGE))
    position = ((clamped + F32(1)) * F32(source) - F32(1)) / F32(2)
    index: NDArray[np.int32] = np.rint(position).astype(np.int32)
    return index


def reference_bits(local: NDArray[np.float32], levels: int) -> NDArray[np.int32]:
    """Return digits [levels, count] ⌊clip(u − 1e-9, 0, 1)·2^(n+1)⌋ mod 2 of local positions [count], in float32
    (H5)."""
    clipped = np.clip(local - F32(1e-9), F32(0), F32(1))
    powers = F32(2) ** np.arange(1, levels + 1, dtype=F32)
    digits: NDArray[np.int32] = (np.floor(clipped * powers[:, None]) % 2).astype(np.int32)
    return digits


def exact_bits(source: int, target: int, index: NDArray[np.int64], levels: int) -> NDArray[np.int32]:
    """Return binary digits [levels, count] of the fractional position ((2i+1)·source − target)/(2·target), in
    integers."""
    numerator = ((2 * index + 1) * source - target) % (2 * target)
    powers = np.int64(2) ** np.arange(1, levels + 1, dtype=np.int64)
    return ((numerator * powers[:, None] // (2 * target)) % 2).astype(np.int32)


def exact_local(source: int, target: int, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the fractions [count] whose digits `exact_bits` returns, rounded once to float32."""
    numerator = ((2 * index + 1) * source - target) % (2 * target)
    return (numerator / (2 * target)).astype(F32)


def relative_cell(source: tuple[int, int], target: tuple[int, int]) -> NDArray[np.float32]:
    """Return [2] (row, column) size of an output pixel in the decoder's units: cell·source = (2/target)·source (C4)."""
    cell = np.array([2 / target[0], 2 / target[1]], dtype=F32)
    return (cell * np.array(source, dtype=F32)).astype(F32)


def _relative(query: NDArray[np.float32], tap: NDArray[np.int32], source: int) -> NDArray[np.float32]:
    centre = pixel_centres(source, tap.astype(np.int64))
    return ((query - centre) * F32(source)).astype(F32)


def bilinear_taps(source: int, target: int, index: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return source pixels [2, count] of half-pixel bilinear interpolation, border replicated, and weights [count] of
    the upper."""
    position = np.clip(((2 * index + 1) * source - target) / (2 * target), 0, source - 1)
    low = np.floor(position).astype(np.int32)
    high = np.minimum(low + 1, source - 1).astype(np.int32)
    return np.stack([low, high]), (position - low).astype(F32)
