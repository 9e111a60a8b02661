"""What a benchmark's figures depend on besides the program: the machine and the versions."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from hiif_deploy.backends.options import usable_cores
from hiif_deploy.support.extras import installed_version
from hiif_deploy.support.version import __version__

PACKAGES = ("numpy", "onnxruntime", "openvino", "llvmlite", "torch", "opencv-python", "tensorrt")
"""Whose versions are kept."""
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8", "asimddp", "bf16")
"""Instruction sets that decide a processor's speed here."""


def machine_facts() -> dict[str, object]:
    """Processor, cores, memory, system, versions, command and time."""
    return {
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "instructions": [flag for flag in FLAGS if flag in (_first("/proc/cpuinfo", "flags") or "").split()],
        "usable_cores": usable_cores(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"hiif-deploy": __version__, **{name: installed_version(name) for name in PACKAGES}},
        "command": " ".join(["hiif-deploy", *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _first(file: str, name: str) -> str | None:
    """The first value of that name in one of Linux' tables; None elsewhere."""
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in found if key.strip() == name), None)
