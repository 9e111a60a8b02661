"""Linux grants the processor's tiles to who asks, where there are any."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hiif_engines.native.tile_permission import request_tiles


@pytest.mark.skipif(sys.platform != "linux", reason="Linux asks for it")
def test_tiles_are_granted_exactly_where_the_processor_has_them() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii").split()
    assert request_tiles() == ("amx_tile" in flags)
    # A second time, as another session of the same process would.
    assert request_tiles() == ("amx_tile" in flags)
