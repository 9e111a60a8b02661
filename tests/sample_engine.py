"""Identities, builders and damage for tests of the engine store that need no GPU."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hiif_deploy.engine_store.entry import StoredEngine
from hiif_deploy.engine_store.identity import EngineEnvironment, EngineIdentity
from hiif_deploy.engine_store.store import EngineStore

ROOT = Path(__file__).resolve().parents[1]

HERE = EngineEnvironment("tensorrt", "10.13.3.9", "NVIDIA GeForce RTX 4090", "8.9", "13.0")
ONNX = "ab" * 32


def make_identity(**changes: Any) -> EngineIdentity:
    """That of an encoder's fp16 engine which fits `HERE`, with some fields changed."""
    identity = EngineIdentity(
        bundle="hiif-compact",
        graph="encoder",
        precision="fp16",
        onnx_sha256=ONNX,
        library="tensorrt",
        library_version="10.13.3.9",
        gpu="NVIDIA GeForce RTX 4090",
        capability="8.9",
        driver="13.0",
        profiles={"picture": ((1, 3, 32, 32), (1, 3, 360, 640), (1, 3, 1080, 1920))},
        flags={"optimization_level": 3, "target": None},
    )
    return replace(identity, **changes)


def plan_bytes(size: int = 5000, seed: int = 1) -> bytes:
    """Random bytes."""
    return random.Random(seed).randbytes(size)


class Builds:
    """A builder that counts its calls, which are the seed of its bytes."""

    def __init__(self, size: int = 5000) -> None:
        self.count = 0
        self.size = size

    def __call__(self) -> tuple[bytes, Mapping[str, Any]]:
        self.count += 1
        return plan_bytes(self.size, seed=self.count), {"psnr": 70.5}


def not_needed() -> tuple[bytes, Mapping[str, Any]]:
    """A builder that must not be called."""
    raise AssertionError("built although an engine is there")


def stored(store: EngineStore, **changes: Any) -> StoredEngine:
    """The engine of `make_identity(**changes)`, built where it is missing."""
    return store.get_or_build(make_identity(**changes), Builds())


def names(store: EngineStore) -> list[str]:
    """Files among the engines."""
    return sorted(path.name for path in (store.root / "engines").iterdir())


def flip(path: Path, at: int) -> None:
    """Invert one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


class _Listener(logging.Handler):
    on_message: Callable[[str], object]

    def emit(self, record: logging.LogRecord) -> None:
        self.on_message(record.getMessage())


@contextmanager
def listening(on_message: Callable[[str], object]) -> Iterator[None]:
    """Call `on_message` with each message that the package logs."""
    handler, logger = _Listener(), logging.getLogger("hiif_deploy")
    handler.on_message, level = on_message, logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def start_python(code: str, *words: object) -> subprocess.Popen[str]:
    """A process that runs `code` and can import the package and the helpers of the tests."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
