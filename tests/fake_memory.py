"""Host memory for `FakeDevice`: every block guarded, fresh bytes poisoned, freed bytes poisoned and not soon reused."""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 256
GUARD = 256
"""Bytes before and behind each block that nothing may touch."""
GUARD_BYTE, FRESH_BYTE, FREED_BYTE = 0xA5, 0xFF, 0xDD
"""Fresh memory is NaN as any float and -1 as any integer."""
QUARANTINE = 1 << 24
"""Freed bytes kept, so that their addresses are not soon given out again."""


class MisuseError(AssertionError):
    """What CUDA would punish with wrong pixels or a crash, or not at all."""


@dataclass(frozen=True)
class Span:
    """Bytes that queued work reads or writes."""

    address: int
    size: int

    @property
    def stop(self) -> int:
        """One past the last byte."""
        return self.address + self.size

    def overlaps(self, other: Span) -> bool:
        """Whether the two share a byte."""
        return self.address < other.stop and other.address < self.stop

    def within(self, other: Span) -> bool:
        """Whether all bytes are the other's too."""
        return other.address <= self.address and self.stop <= other.stop

    def __str__(self) -> str:
        return f"{self.size} bytes at {self.address:#x}"


@dataclass(frozen=True)
class Block:
    """One allocation and its guards."""

    span: Span
    whole: NDArray[np.uint8]
    start: int

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes that were asked for."""
        return self.whole[self.start : self.start + self.span.size]

    def intact(self) -> bool:
        """Whether the guards are untouched."""
        before, behind = self.whole[: self.start], self.whole[self.start + self.span.size :]
        return bool((before == GUARD_BYTE).all() and (behind == GUARD_BYTE).all())


class FakeMemory:
    """Blocks by address, and every misuse of them that was seen."""

    def __init__(self) -> None:
        self.misuses: list[str] = []
        self.blocks: dict[int, Block] = {}
        """Those that pose as GPU memory."""
        self._freed: deque[NDArray[np.uint8]] = deque()

    def new(self, size: int) -> Block:
        """A block that is not GPU memory yet."""
        whole = np.full(size + 2 * GUARD + ALIGNMENT, GUARD_BYTE, dtype=np.uint8)
        start = GUARD + -(whole.ctypes.data + GUARD) % ALIGNMENT
        block = Block(Span(whole.ctypes.data + start, size), whole, start)
        block.data.fill(FRESH_BYTE)
        return block

    def retire(self, block: Block) -> None:
        """Poison it; MisuseError where a guard was overwritten."""
        self.blocks.pop(block.span.address, None)
        if not block.intact():
            self.misuse(f"something wrote outside of {block.span}")
        block.data.fill(FREED_BYTE)
        self._freed.append(block.whole)
        while sum(whole.nbytes for whole in self._freed) > QUARANTINE:
            self._freed.popleft()

    def view(self, span: Span) -> NDArray[np.uint8]:
        """GPU memory; MisuseError where the span is not all within one live block."""
        for block in list(self.blocks.values()):
            if span.within(block.span):
                start = span.address - block.span.address
                return block.data[start : start + span.size]
            if block.span.overlaps(span):
                self.misuse(f"{span} reach beyond the block of {block.span}")
        return self.misuse(f"{span} are not allocated: freed, or never were")

    def host(self, array: NDArray[Any]) -> Callable[[], NDArray[np.uint8]]:
        """Reaches a host array's bytes later without keeping it alive, as CUDA does; MisuseError where it died."""
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        # Memory that numpy does not own cannot be watched; it is kept alive instead.
        alive: Callable[[], Any] = weakref.ref(owner) if owner.base is None else lambda: owner
        address, size = array.ctypes.data, array.nbytes

        def reach() -> NDArray[np.uint8]:
            if alive() is None:
                self.misuse("a host array died before its copy ran")
            buffer: Any = (ctypes.c_uint8 * size).from_address(address)
            view: NDArray[np.uint8] = np.frombuffer(buffer, dtype=np.uint8)
            return view

        return reach

    def misuse(self, what: str) -> NoReturn:
        """Remember and raise it."""
        self.misuses.append(what)
        raise MisuseError(what)
