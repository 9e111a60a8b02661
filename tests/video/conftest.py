"""Shared by the tests of video: clips, made when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name → path of a clip of `clips.CLIPS`. Tests read them only."""
    pytest.importorskip("av", reason="needs PyAV")
    from clips import make_clip

    folder = tmp_path_factory.mktemp("clips")
    return lambda name: make_clip(name, folder)
