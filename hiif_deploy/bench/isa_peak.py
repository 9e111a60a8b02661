"""Peak of a matrix product that is limited to one instruction set, in a process of its own: libraries read their limits
when they are loaded. ONNX Runtime has none, and OpenVINO takes fp32 products from it, so that those are NumPy's."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping

import numpy as np

from hiif_deploy.backends.options import IsaName
from hiif_deploy.bench.gemm import SIDE, GemmMeter, GemmPeak, best_product
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.errors import HiifError

LIMITS: Mapping[tuple[IsaName, ComputePrecision], Mapping[str, str]] = {
    ("amx", "bf16"): {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"},
    ("amx", "int8"): {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"},
    ("avx512", "fp32"): {"OPENBLAS_CORETYPE": "SkylakeX", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    ("avx512", "bf16"): {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    ("avx512", "int8"): {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    ("avx2", "int8"): {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"},
    ("avx2", "fp32"): {"OPENBLAS_CORETYPE": "Haswell", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ("neon", "fp32"): {"OPENBLAS_CORETYPE": "ARMV8"},
}
"""Environment of the process: limits of NumPy's library, OpenBLAS or MKL, and of oneDNN, which OpenVINO contains."""


class IsaMeter(GemmMeter):
    """The machine's peaks, and those of the instruction sets of native code."""

    def __init__(
        self, threads: int, arithmetics: set[ComputePrecision], isas: Collection[tuple[IsaName, ComputePrecision]],
        side: int = SIDE,
    ) -> None:  # fmt: skip
        super().__init__(threads, arithmetics, side)
        self._threads, self._isas = threads, isas
        self.isa_peaks: dict[tuple[IsaName, ComputePrecision], GemmPeak] = {}
        """Those that no library can be limited to are left out."""

    def measure(self) -> None:
        """Once more on every engine, and for every instruction set."""
        super().measure()
        for isa, arithmetic in self._isas:
            try:
                peak = measure_limited(isa, arithmetic, self._threads, self._side)
            except HiifError:
                continue  # as an engine that is not here sets no peak
            known = self.isa_peaks.setdefault((isa, arithmetic), peak)
            if peak.gflops > known.gflops:
                self.isa_peaks[isa, arithmetic] = peak


def measure_limited(isa: IsaName, arithmetic: ComputePrecision, threads: int, side: int) -> GemmPeak:
    """Return the rate of the fastest library. HiifError where no library could be limited."""
    limits = LIMITS.get((isa, arithmetic), {})
    words = json.dumps([arithmetic, threads, side])
    done = subprocess.run(
        [sys.executable, "-m", "hiif_deploy.bench.isa_peak", words], capture_output=True, text=True, check=False,
        env={**os.environ, **limits, "OPENBLAS_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
    )  # fmt: skip
    if done.returncode or not limits:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise HiifError(f"a product limited to {isa} could not be measured in {arithmetic}: {lines[-1]}")
    gflops, library = json.loads(done.stdout.splitlines()[-1])
    return GemmPeak(arithmetic, gflops, library)


def blas() -> str:
    """Return the name of NumPy's library where it heeds `LIMITS`, else an empty string."""
    config = np.show_config(mode="dicts")
    name = str(config["Build Dependencies"]["blas"]["name"])
    return name if any(known in name for known in ("openblas", "mkl")) else ""


def main() -> None:
    """The other process: arguments as JSON in, figures as JSON out."""
    arithmetic, threads, side = json.loads(sys.argv[1])
    print(json.dumps(_own_product(side) if arithmetic == "fp32" else _openvino(arithmetic, threads, side)))


def _own_product(side: int) -> tuple[float, str]:
    name = blas()
    if not name:
        raise HiifError("NumPy's library has no limits")
    return best_product(side), name


def _openvino(arithmetic: ComputePrecision, threads: int, side: int) -> tuple[float, str]:
    meter = GemmMeter(threads, {arithmetic}, side, ["openvino"])
    meter.measure()
    if arithmetic not in meter.peaks:
        raise HiifError("OpenVINO is not installed")
    return meter.peaks[arithmetic].gflops, "openvino"


if __name__ == "__main__":
    main()
