"""Shared by the tests of the engine store."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hiif_deploy.engine_store.store import EngineStore


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package logs, from INFO on."""
    caplog.set_level(logging.INFO, logger="hiif_deploy")
    return caplog


@pytest.fixture
def store(tmp_path: Path, log: pytest.LogCaptureFixture) -> EngineStore:
    """An empty store, opened without a message."""
    opened = EngineStore.open(tmp_path / "store")
    assert log.messages == []
    return opened
