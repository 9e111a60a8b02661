"""Writes LLVM's intermediate code in the few operations that the kernels need: vectors as wide as the target's, loops,
addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from llvmlite import ir

from hiif_engines.native.target import Target

Value = Any
"""A value of the generated code, of an `ir` type."""

FLOAT, I8, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
POINTER = ir.PointerType()
WORD = 4
"""Bytes of a float32, of an int32, and of the pairs and quadruples that a product multiplies at once."""

COLOURS = 3
"""Values of a colour."""


class BrainFloat(ir.types.Type):  # type: ignore[misc]
    """The type bfloat16, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BrainFloat)

    def __hash__(self) -> int:
        return hash(BrainFloat)

    @property
    def intrinsic_name(self) -> str:
        """LLVM's spelling of the type within names."""
        return "bf16"


@dataclass
class Loop:
    """The loop that is being written; afterwards its final values."""

    index: Value
    """Loop counter: 0, step, 2 · step, …"""
    values: list[Value] = field(default_factory=list)
    """Loop-carried values: to be set to those of the next iteration."""


class Emitter:
    """Writes the code of one function."""

    def __init__(self, target: Target, module: ir.Module, name: str, arguments: Sequence[ir.Type]) -> None:
        self.target, self.module = target, module
        self.lanes = target.lanes
        self.floats, self.words = ir.VectorType(FLOAT, self.lanes), ir.VectorType(I32, self.lanes)
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
        self.arguments = self.function.args
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))

    @contextmanager
    def loop(self, end: Value, step: int = 1, carried: Sequence[Value] = ()) -> Iterator[Loop]:
        """Write a loop with at least one iteration. `end` is a number or a value."""
        b, before = self.builder, self.builder.block
        body = self.function.append_basic_block("turn")
        b.branch(body)
        b.position_at_end(body)
        index = b.phi(I64)
        index.add_incoming(number(0), before)
        phis = [b.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        loop = Loop(index, list(phis))
        yield loop
        following = b.add(index, number(step))
        index.add_incoming(following, b.block)
        for phi, value in zip(phis, loop.values, strict=True):
            phi.add_incoming(value, b.block)
        behind = self.function.append_basic_block("behind")
        b.cbranch(b.icmp_unsigned("<", following, number(end) if isinstance(end, int) else end), body, behind)
        b.position_at_end(behind)

    @contextmanager
    def taken(self, counter: Value, end: Value, step: int) -> Iterator[Value]:
        """Write a loop over multiples of `step` below `end`, each of which one thread takes from the shared counter."""
        b = self.builder
        head, body = (self.function.append_basic_block(name) for name in ("next", "taken"))
        b.branch(head)
        b.position_at_end(head)
        index = b.atomic_rmw("add", counter, number(step), "monotonic")
        is_left = b.icmp_unsigned("<", index, end)
        b.position_at_end(body)
        yield index
        b.branch(head)
        behind = self.function.append_basic_block("behind")
        b.position_at_end(head)
        b.cbranch(is_left, body, behind)
        b.position_at_end(behind)

    def finish(self) -> None:
        """End the function with a return."""
        self.builder.ret_void()

    def at(self, pointer: Value, *offsets: Value | int) -> Value:
        """Return the address that many bytes after `pointer`."""
        for offset in offsets:
            pointer = self.builder.gep(
                pointer, [number(offset) if isinstance(offset, int) else offset], source_etype=I8
            )
        return pointer

    def times(self, value: Value, factor: int) -> Value:
        """Return value · factor, in 64 bits."""
        return self.builder.mul(value, number(factor))

    def load(self, kind: ir.Type, pointer: Value, *offsets: Value | int) -> Value:
        """Load a value from that many bytes after `pointer`."""
        return self.builder.load(self.at(pointer, *offsets), typ=kind, align=WORD)

    def store(self, value: Value, pointer: Value, *offsets: Value | int) -> None:
        """Store a value that many bytes after `pointer`."""
        self.builder.store(value, self.at(pointer, *offsets), align=1)

    def spread(self, value: Value) -> Value:
        """Return one value in all lanes."""
        b = self.builder
        one = b.insert_element(ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined), value, _word(0))
        return b.shuffle_vector(one, one, self.integers(0))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return a · b + c, rounded once; of vectors or of single values."""
        return self.call("llvm.fma", a.type, a, b, c)

    def call(self, name: str, result: ir.Type, *values: Value, overloaded: bool = True, loose: bool = False) -> Value:
        """Call one of LLVM's intrinsics by its name without types; `loose` lets a sum be added in any order."""
        full = f"{name}.{_suffix(values[-1].type)}" if overloaded else name
        function = self.module.globals.get(full) or ir.Function(
            self.module, ir.FunctionType(result, [value.type for value in values]), full
        )
        return self.builder.call(function, values, fastmath=("reassoc",) if loose else ())

    def total(self, vector: Value) -> Value:
        """Return the sum over the lanes."""
        return self.call("llvm.vector.reduce.fadd", FLOAT, real(0.0), vector, loose=True)

    def totals(self, vectors: Sequence[Value]) -> list[Value]:
        """Return vectors whose lanes are the sums over the lanes of each given vector, and 0 behind the last one."""
        padding = [self.reals(0.0)] * (self.target.padded(len(vectors)) - len(vectors))
        found = [*vectors, *padding]
        while len(found) * self.lanes > self.target.padded(len(vectors)):
            found = [self._neighbours(a, b) for a, b in zip(found[::2], found[1::2], strict=True)]
        return found

    def _neighbours(self, a: Value, b: Value) -> Value:
        """Return a₀ + a₁, a₂ + a₃, …, b₀ + b₁, …"""
        even, odd = (
            self.builder.shuffle_vector(a, b, ir.Constant(self.words, list(range(first, 2 * self.lanes, 2))))
            for first in (0, 1)
        )
        return self.builder.fadd(even, odd)

    def lane(self, vector: Value, n: int) -> Value:
        """Return one lane's value in all lanes."""
        return self.builder.shuffle_vector(vector, vector, self.integers(n))

    def lowest(self, vectors: Sequence[Value]) -> Value:
        """Return the minimum over all lanes of all vectors."""
        return self.call("llvm.vector.reduce.fmin", FLOAT, reduce(self.minimum, vectors))

    def highest(self, vectors: Sequence[Value]) -> Value:
        """Return the maximum over all lanes of all vectors."""
        return self.call("llvm.vector.reduce.fmax", FLOAT, reduce(self.maximum, vectors))

    def between(self, x: Value, low: float, high: float) -> Value:
        """Return lanes clamped to [low, high]."""
        return self.minimum(self.maximum(x, self.reals(low)), self.reals(high))

    def relu(self, value: Value) -> Value:
        """Return the maximum of each lane and 0, and NaN of NaN."""
        return self.maximum(self.reals(0.0), value)

    def least(self, a: Value, b: Value) -> Value:
        """Return the least of two numbers without sign."""
        return self.builder.select(self.builder.icmp_unsigned("<", a, b), a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """Return the minimum, lane by lane."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """Return the maximum, lane by lane; `b` where one of them is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def inverse_root(self, value: Value) -> Value:
        """Return 1 / √value, each rounded correctly; of vectors or of single values."""
        one = self.reals(1.0) if isinstance(value.type, ir.VectorType) else real(1.0)
        return self.builder.fdiv(one, self.call("llvm.sqrt", value.type, value))

    def reals(self, value: float) -> Value:
        """Return a vector of float32 with a constant in all lanes."""
        return ir.Constant(self.floats, [value] * self.lanes)

    def integers(self, value: int) -> Value:
        """Return a vector of 32-bit numbers with a constant in all lanes."""
        return ir.Constant(self.words, [value] * self.lanes)


def number(value: int) -> Value:
    """Return a constant of 64 bits."""
    return ir.Constant(I64, value)


def real(value: float) -> Value:
    """Return a constant of type float32."""
    return ir.Constant(FLOAT, value)


def _word(value: int) -> Value:
    return ir.Constant(I32, value)


def _suffix(kind: ir.Type) -> str:
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_suffix(kind.element)}"
    return "f32" if kind == FLOAT else str(kind)
