"""Precisions of matrix products: the layout of operands, the multiplication, and the conversion to float32.

An operand is a row of 4-byte elements: one float32, two bfloat16 or four 8-bit values, of neighbouring inputs. A matrix
[inputs, outputs] is split into panels of outputs, in each of which the elements of the same inputs lie side by side.
That is also how the processor's tiles want a matrix; they take 16 elements of a row at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from hiif_engines.native.emit import FLOAT, I8, I32, WORD, BrainFloat, Emitter, Value, real
from hiif_engines.native.functions.gelu import COARSE, EXACT, ROUGH, Normal
from hiif_engines.native.target import TILE, Target

Array = NDArray[np.float32]
FACTORS = 4
"""float32 values stored per row:"""
SCALE, STEP, LOW, TOTAL = 0, 1, 2, 3
"""its LayerNorm's scale; in 8 bits its step and its lowest value; a sum that is kept until the scale is known."""
TINY = 2.0**-126
"""Smallest normal value of float32."""
STEPS = 255.0
"""Steps of int8 from a row's lowest value to its highest."""


class MatrixPrecision:
    """fp32 products; subclasses override what differs."""

    inputs = 1
    """Number of values in an element."""
    normal: Normal = EXACT
    """Approximation of Φ that is accurate enough for its GELU."""
    constants = 0
    """Number of vectors, beside the bias, that `real` reads."""
    tile_product = ""
    """LLVM's product of tiles; empty where there is none."""
    by_row = False
    """Whether a row's operands depend on all of its values."""
    element: ir.Type = FLOAT
    total: ir.Type = FLOAT
    """Type of a sum of products, before `real`."""

    def __repr__(self) -> str:
        return type(self).__name__

    @property
    def value_bytes(self) -> int:
        """Bytes of one value of an operand."""
        return WORD // self.inputs

    def depth(self, target: Target) -> int:
        """Return the number of elements of a row that are multiplied at once."""
        return TILE if target.tiles and self.tile_product else 1

    def elements(self, inputs: int, target: Target) -> int:
        """Return the number of elements of a row: operands and matrices are filled up with zeros."""
        step = self.inputs * self.depth(target)
        return -(-inputs // step) * step // self.inputs

    def pack(self, matrix: Array, target: Target) -> NDArray[Any]:
        """Pack [inputs, outputs] as [outputs / panel, elements, panel, n], for elements of n values."""
        inputs, panel = len(matrix), target.panel(matrix.shape[1])
        elements = self.elements(inputs, target)
        whole = np.pad(self.rounded(matrix), ((0, elements * self.inputs - inputs), (0, 0)))
        return np.ascontiguousarray(whole.reshape(elements, self.inputs, -1, panel).transpose(2, 0, 3, 1))

    def rounded(self, matrix: Array) -> NDArray[Any]:
        """Return the matrix [inputs, outputs] as it is multiplied."""
        return matrix.astype(np.float32)

    def scales(self, matrix: Array) -> Array:
        """Return the constants [constants, outputs] of a matrix [inputs, outputs]."""
        return np.zeros((0, matrix.shape[1]), np.float32)

    def add_product(self, e: Emitter, total: Value, row: Value, weights: Value) -> Value:
        """Emit total + an element of a row, in all lanes, times the matrix' elements of the same inputs."""
        return e.fma(row, weights, total)

    def real(self, e: Emitter, total: Value, factors: Value, row: int, constants: list[Value]) -> Value:
        """Emit the conversion of a sum of products to float32."""
        del e, factors, row, constants
        return total

    def keep(self, e: Emitter, values: list[Value], target: Value, factors: Value) -> None:
        """Emit the store of a row, given in vectors of float32, as operands."""
        self._keep(e, values, target, factors)
        self.fill(e, len(values) * e.lanes, target)

    def fill(self, e: Emitter, inputs: int, row: Value) -> None:
        """Emit the zeros after a row of operands that make its elements whole steps of a product."""
        size, end = self.value_bytes, self.elements(inputs, e.target) * WORD
        for place in range(inputs * size, end, e.lanes * size):
            e.store(ir.Constant(ir.VectorType(I8, e.lanes * size), None), row, place)

    def _keep(self, e: Emitter, values: list[Value], target: Value, factors: Value) -> None:
        del factors
        for n, value in enumerate(values):
            e.store(self.narrowed(e, value), target, n * e.lanes * self.value_bytes)

    def narrowed(self, e: Emitter, values: Value) -> Value:
        """Emit a vector of float32 as operands, where that does not depend on the row."""
        del e
        return values


class Bf16(MatrixPrecision):
    """bfloat16 products, two at once, accumulated in float32."""

    inputs = 2
    tile_product = "llvm.x86.tdpbf16ps"
    normal = COARSE
    element = I32

    def rounded(self, matrix: Array) -> NDArray[Any]:
        """Return bit patterns [inputs, outputs], rounded to nearest even."""
        bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32)
        found: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return found

    def add_product(self, e: Emitter, total: Value, row: Value, weights: Value) -> Value:
        """Emit AVX-512's dot product of bfloat16 pairs."""
        kind = ir.VectorType(BrainFloat(), 2 * e.lanes)
        pairs = [e.builder.bitcast(value, kind) for value in (row, weights)]
        return e.call("llvm.x86.avx512bf16.dpbf16ps.512", e.floats, total, *pairs, overloaded=False)

    def narrowed(self, e: Emitter, values: Value) -> Value:
        """Emit AVX-512's conversion to bfloat16."""
        kind = ir.VectorType(BrainFloat(), e.lanes)
        return e.call("llvm.x86.avx512bf16.cvtneps2bf16.512", kind, values, overloaded=False)


class Int8(MatrixPrecision):
    """8-bit products, four at once, accumulated in 32 bits.

    A row x is low + step · q with q in 0 … 255, a column of the matrix scale · w with w in −127 … 127, so that Σ x · W
    = step · scale · Σ q · w + low · scale · Σ w; the last sum is known in advance.
    """

    inputs = 4
    tile_product = "llvm.x86.tdpbusd"
    normal = ROUGH
    constants = 2
    by_row = True
    element = total = I32

    def rounded(self, matrix: Array) -> NDArray[Any]:
        """Return the matrix [inputs, outputs] divided by its column scales, rounded to int8."""
        found: NDArray[np.int8] = np.rint(matrix / _column_scales(matrix)).astype(np.int8)
        return found

    def scales(self, matrix: Array) -> Array:
        """Return [2, outputs]: the column scales, and the factors of a row's lowest value."""
        scale = _column_scales(matrix)
        return np.stack([scale, np.rint(matrix / scale).sum(0) * scale]).astype(np.float32)

    def add_product(self, e: Emitter, total: Value, row: Value, weights: Value) -> Value:
        """Emit the dot product of 8-bit quadruples of AVX-512, or of AVX-VNNI where there is only that."""
        kind = ir.VectorType(I8, 4 * e.lanes)
        quadruples = [e.builder.bitcast(value, kind) for value in (row, weights)]
        return e.call(f"llvm.x86.avx512.vpdpbusd.{8 * kind.count}", e.words, total, *quadruples, overloaded=False)

    def real(self, e: Emitter, total: Value, factors: Value, row: int, constants: list[Value]) -> Value:
        """Emit step · scale · sum + low · factor."""
        b, (scale, whole) = e.builder, constants
        step, low = (e.spread(e.load(FLOAT, factors, WORD * (FACTORS * row + n))) for n in (STEP, LOW))
        return e.fma(b.sitofp(total, e.floats), b.fmul(step, scale), b.fmul(low, whole))

    def _keep(self, e: Emitter, values: list[Value], target: Value, factors: Value) -> None:
        """Emit the quantisation of a row with its own step and lowest value."""
        b = e.builder
        low, high = e.lowest(values), e.highest(values)
        # Never zero: a row of equal values would be divided by zero.
        reach = b.fadd(b.fsub(high, low), real(TINY))
        e.store(b.fdiv(reach, real(STEPS)), factors, WORD * STEP)
        e.store(low, factors, WORD * LOW)
        low, inverse = e.spread(low), e.spread(b.fdiv(real(STEPS), reach))
        for n, value in enumerate(values):
            step = e.fma(b.fsub(value, low), inverse, e.reals(0.5))
            # Signed, because AVX2 has no other conversion.
            e.store(b.trunc(b.fptosi(step, e.words), ir.VectorType(I8, e.lanes)), target, n * e.lanes)


FP32, BF16, INT8 = MatrixPrecision(), Bf16(), Int8()
PRECISIONS = {"fp32": FP32, "bf16": BF16, "int8": INT8}


def _column_scales(matrix: Array) -> Array:
    scale: Array = np.maximum(np.abs(matrix).max(axis=0) / 127, TINY)
    return scale
