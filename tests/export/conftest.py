"""Shared by the tests of the export."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`decoder_pairs.Pairs`: each is exported once per run of the tests."""
    pytest.importorskip("onnxscript")
    from decoder_pairs import Pairs

    return Pairs(tmp_path_factory.mktemp("pairs"))
