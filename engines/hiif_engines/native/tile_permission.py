"""Permission to use the processor's tiles (AMX): Linux saves their 8 KB only for processes that have asked."""

from __future__ import annotations

import ctypes
import sys

ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18
"""Linux' call on x86-64, its code ARCH_REQ_XCOMP_PERM, and the number of the state: documented in the kernel's
`Documentation/arch/x86/xstate.rst`."""


def request_tiles() -> bool:
    """Ask for this process, all of its threads and what it forks; return whether it was granted."""
    if sys.platform != "linux":
        return False
    return int(ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA)) == 0
