"""An engine's identity, the machine it fits, and bytes that stand for a plan, for tests that need no GPU."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hiif_deploy.engine_store.identity import EngineEnvironment, EngineIdentity

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
        flags={"optimization_level": 3, "version_compatible": False, "hardware_compatibility": "none"},
    )
    return replace(identity, **changes)


def plan_bytes(size: int = 5000, seed: int = 1) -> bytes:
    """Random bytes."""
    return random.Random(seed).randbytes(size)
