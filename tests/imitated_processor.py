"""An older processor, imitated: libraries are kept from newer instructions, and native code is made without them.

oneDNN (in PyTorch and OpenVINO) reads `ONEDNN_MAX_CPU_ISA` when it is loaded, and PyTorch's own kernels
`ATEN_CPU_CAPABILITY`. LLVM, and what this project reads of the system's list of flags, see fewer of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from hiif_deploy.backends.sessions import openvino as openvino_session


@dataclass(frozen=True)
class Isa:
    """A generation of x86 processors."""

    needs: frozenset[str]
    """Flags that this machine must have to imitate it."""
    onednn: str
    """Value of ONEDNN_MAX_CPU_ISA."""
    aten: str
    """Value of ATEN_CPU_CAPABILITY."""
    hidden: tuple[str, ...]
    """Instructions that it lacks begin so, as LLVM or the system spells them without separators."""

    def visible(self, flags: Iterable[str]) -> frozenset[str]:
        """Those that it has too."""
        return frozenset(flag for flag in flags if not re.sub("[-_]", "", flag).startswith(self.hidden))


NEWER = ("amx", "avx512fp16", "avx10")
ISAS = {
    "avx2": Isa(frozenset({"avx2", "fma"}), "AVX2", "avx2", ("avx512", "avxvnni", *NEWER)),
    "avx512": Isa(
        frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}), "AVX512_CORE", "avx512",
        ("avx512bf16", "avx512vnni", "avxvnni", *NEWER),
    ),
    "avx512-bf16": Isa(frozenset({"avx512_bf16", "avx512_vnni"}), "AVX512_CORE_BF16", "avx512", NEWER),
}  # fmt: skip
"""Those that can be imitated by a newer processor."""


def lacking(name: str) -> frozenset[str]:
    """Flags that this machine would need to imitate it."""
    return ISAS[name].needs - (openvino_session.processor_flags() or frozenset())


def imitate(name: str) -> None:
    """Hide newer instructions from everything that this process, and its children, load from now on."""
    isa = ISAS[name]
    os.environ["ONEDNN_MAX_CPU_ISA"], os.environ["ATEN_CPU_CAPABILITY"] = isa.onednn, isa.aten
    real_flags = openvino_session.processor_flags
    openvino_session.processor_flags = lambda *file: (  # type: ignore[assignment]
        real_flags(*file) if file else isa.visible(real_flags() or ())
    )
    if find_spec("llvmlite") is not None:
        from llvmlite import binding

        real_features = binding.get_host_cpu_features

        def features() -> binding.FeatureMap:
            found = real_features()
            return binding.FeatureMap({key: on and key in isa.visible(found) for key, on in found.items()})

        binding.get_host_cpu_features = features
