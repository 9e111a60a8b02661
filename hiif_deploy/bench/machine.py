"""What a benchmark's figures depend on besides the program: the machine and the versions."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from hiif_deploy.backends.options import usable_cores
from hiif_deploy.rendering.tuned import processor
from hiif_deploy.support.extras import installed_version
from hiif_deploy.support.system_table import CPU_INFO, table_value
from hiif_deploy.support.version import __version__

PACKAGES = ("numpy", "onnxruntime", "openvino", "llvmlite", "torch", "opencv-python", "tensorrt")
"""Whose versions are kept."""
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8", "asimddp", "bf16")
"""Instruction sets that decide a processor's speed here."""


def machine_facts() -> dict[str, object]:
    """Processor, cores, memory, system, versions, command and time."""
    return {
        "processor": processor(),
        "instructions": [flag for flag in FLAGS if flag in (table_value(CPU_INFO, "flags") or "").split()],
        "usable_cores": usable_cores(),
        "memory": table_value(Path("/proc/meminfo"), "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"hiif-deploy": __version__, **{name: installed_version(name) for name in PACKAGES}},
        "command": " ".join(["hiif-deploy", *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
