"""Linux grants the processor's tiles on request, where there are any."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from hiif_engines.native.tile_permission import request_tiles


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="a call of Linux on x86-64")
def test_tiles_are_granted_only_where_the_processor_has_them_and_each_time() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii").split()
    is_granted = request_tiles()
    assert not is_granted or "amx_tile" in flags
    # As for another session of the same process.
    assert request_tiles() == is_granted
