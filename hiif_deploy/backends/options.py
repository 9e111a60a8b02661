"""Which engine runs the graphs: the user's choice, which never changes silently."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hiif_deploy.backends.engines import AUTO, ENGINES, Engine, check_precision
from hiif_deploy.bundle.contract import GraphContract, Precision
from hiif_deploy.decoding.session import ComputePrecision, Tensors
from hiif_deploy.errors import BundleError, OptionError

LibraryName = Literal["tensorrt", "tensorrt-rtx"]
"""NVIDIA's two inference libraries."""

IsaName = Literal["amx", "avx512", "avx2", "neon"]
"""Instruction sets that native code is written for."""


@dataclass(frozen=True)
class EngineOptions:
    """Which engine runs the graphs, and with how much of the machine."""

    engine: Engine = "auto"
    """A name of `engines.ENGINES`; `native` is code made for this processor when the bundle is opened. `auto` takes the
    first that works of `choice.auto_attempts`, GPUs first, and says which and why."""
    provider: str = "cpu"
    """ONNX Runtime execution provider: `cpu`, `cuda`, `tensorrt`, … or its full name."""
    threads: int = 0
    """Processor threads; 0 takes as many as this process may use."""
    call_threads: int | None = None
    """Threads inside one decoder call, the others running other calls; None: what `tuning` stored, else 1."""
    precision: ComputePrecision | None = None
    """What is computed in; None: fp16 on TensorRT where it is named, else fp32."""
    library: LibraryName = "tensorrt"
    """TensorRT or TensorRT-RTX."""
    builds: bool = True
    """Of TensorRT: whether engines that are not stored are built, which takes minutes; `auto` builds none."""
    store: Path | None = None
    """Folder of the stored engines; None: the user's own (`EngineStore.open`)."""
    device_layer: str = "auto"
    """Python layer to the GPU: `cuda-python`, `pycuda`, or whichever is there."""
    gpu_memory: int | None = None
    """Most bytes of GPU memory that one picture's maps may take (on PyTorch: all that one picture takes); None: a
    quarter of what the GPU has."""
    device: str = "cuda"
    """Of engine `torch`: `cuda`, `cuda:N`, or `cpu`, which is there for tests."""
    isa: IsaName | None = None
    """Of engine `native`: its instruction set; None: the fastest one that this processor has."""

    def __post_init__(self) -> None:
        for name in ("threads", "call_threads", "gpu_memory"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise OptionError(f"{name.replace('_', ' ')} is {value!r}: expected a whole number")
        if self.engine not in get_args(Engine):
            raise OptionError(f"engine is {self.engine!r}: expected one of {', '.join(get_args(Engine))}")
        if self.precision not in (None, *get_args(ComputePrecision)):
            known = ", ".join(get_args(ComputePrecision))
            raise OptionError(f"precision is {self.precision!r}: expected one of {known}")
        check_precision(self.engine, self.precision)
        self._check_reads()
        if self.threads < 0:
            raise OptionError(f"threads is {self.threads}: expected 0 (all) or more")
        if self.call_threads is not None and self.call_threads < 1:
            raise OptionError(f"call threads is {self.call_threads}: expected 1 or more")
        if self.call_threads not in (None, 1) and self.engine != AUTO and ENGINES[self.engine].one_thread_per_call:
            raise OptionError(f"call threads is {self.call_threads}: a call of {self.engine} has one; leave it out")

    def _check_reads(self) -> None:
        if self.isa not in (None, *get_args(IsaName)):
            raise OptionError(f"isa is {self.isa!r}: expected one of {', '.join(get_args(IsaName))}")
        reads = () if self.engine == AUTO else ENGINES[self.engine].reads
        if self.provider != "cpu" and "provider" not in reads:
            raise OptionError(
                f"provider is {self.provider}: engine {self.engine} does not read it; name engine onnxruntime"
            )
        if self.isa is not None and "isa" not in reads:
            raise OptionError(f"isa is {self.isa}: engine {self.engine} does not read it; leave it out")

    @property
    def graphs(self) -> Precision:
        """Which of the bundle's graphs are run, where that is not left to the engine."""
        return "fp16" if self.precision == "fp16" else "fp32"

    @property
    def thread_count(self) -> int:
        """`threads`, or what the machine grants this process."""
        return self.threads or usable_cores()


ON_HOST = EngineOptions(engine="onnxruntime")
"""ONNX Runtime on the processor, which every installation has: for small graphs, and as a reference."""


def check_outputs(graph: GraphContract, feeds: Tensors, outputs: Tensors) -> None:
    """BundleError where an output's shape is not the one that the contract promises for these inputs."""
    sizes: dict[int | str, int] = {}
    for tensor in graph.inputs:
        sizes |= dict(zip(tensor.shape, feeds[tensor.name].shape, strict=False))
    for tensor in graph.outputs:
        found = outputs[tensor.name].shape
        wanted = [sizes.get(n, n) if isinstance(n, str) else n for n in tensor.shape]
        # A name that no input has, such as the number of queries, stands for any size.
        fitting = [m if isinstance(n, str) else n for n, m in zip(wanted, found, strict=False)]
        if len(wanted) != len(found) or fitting != list(found):
            raise BundleError(
                f"graph {graph.name}: it gave {tensor.name} of shape {list(found)}, and the contract promises "
                f"{wanted}; export the bundle again"
            )


def usable_cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processor cores that this process may use: by its affinity and its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no container, or "max": no quota
        return cores
