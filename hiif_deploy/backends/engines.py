"""The table of engines: what is known of each before it is opened. Every decision about engines reads it."""

from dataclasses import dataclass
from typing import Literal

from hiif_deploy.bundle.contract import Contract
from hiif_deploy.decoding.session import REDUCED_PRECISIONS, ComputePrecision
from hiif_deploy.errors import EngineError, OptionError

Engine = Literal["onnxruntime", "openvino", "native", "tensorrt", "torch", "auto"]
"""What runs the graphs."""
OPEN_HOST = "hiif_deploy.backends.onnxruntime_device:open_host"
"""Opens a bundle on ONNX Runtime or OpenVINO."""
AUTO: Engine = "auto"
"""The first of `choice.auto_attempts` that works."""


@dataclass(frozen=True)
class EngineSpec:
    """One row of the table of engines."""

    name: Engine
    """As `--engine` takes it."""
    title: str
    """As people call it."""
    opener: str | None
    """`module:function` of (bundle, options) → Backend; None: another area brings it, by the entry point of its name in
    the group `hiif_deploy.backends`."""
    precisions: tuple[ComputePrecision, ...]
    """What it computes in; the first one where none is chosen."""
    gpu: Literal["always", "never", "provider", "device"]
    """Whether it runs on a GPU, or which option decides."""
    extra: str | None = None
    """The extra that installs it; None: every installation has it."""
    reads: tuple[str, ...] = ()
    """Options of the command line that only this engine reads."""
    session: str | None = None
    """`module:function` that loads one graph, for engines whose tensors are arrays of the host (`sessions.open`)."""
    joins_stages: bool = False
    """Whether stages run faster as one graph: states between them are neither converted nor copied."""
    gathers_slowly: bool = False
    """Whether graphs that gather run faster on ONNX Runtime (half the speed, design/decoding.md §5)."""
    one_thread_per_call: bool = False
    """Whether a decoder call has one thread, so that `call_threads` cannot be chosen."""
    cascades: bool = False
    """Whether decoders may form a cascade, and encoders have averaged tiles."""
    is_tunable: bool = False
    """Whether `tune` finds better calls for it on a processor."""

    def check(self, contract: Contract) -> None:
        """EngineError for a bundle whose values this engine would get wrong."""
        if not self.cascades and (contract.decoder.cascade > 1 or contract.encoder.tile is not None):
            raise EngineError(
                f"bundle {contract.name} does not run on {self.title} yet, which has neither decoders in a cascade nor "
                "averaged tiles of the encoder: choose --engine onnxruntime"
            )


ENGINES: dict[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            "onnxruntime", "ONNX Runtime", OPEN_HOST, ("fp32", "fp16"), "provider",
            reads=("provider",), session="hiif_deploy.backends.sessions.onnxruntime:open_onnxruntime", cascades=True,
            is_tunable=True,
        ),
        EngineSpec(
            "openvino", "OpenVINO", OPEN_HOST, ("fp32", *REDUCED_PRECISIONS), "never",
            extra="openvino", session="hiif_deploy.backends.sessions.openvino:open_openvino", joins_stages=True,
            gathers_slowly=True, cascades=True, is_tunable=True,
        ),
        EngineSpec(
            "native", "native code", None, ("fp32", *REDUCED_PRECISIONS), "never", extra="native",
            reads=("isa",), one_thread_per_call=True,
        ),
        EngineSpec(
            "tensorrt", "TensorRT", "hiif_deploy.rendering.open_tensorrt:open_tensorrt", ("fp16", "fp32"), "always",
            reads=("library",),
        ),
        EngineSpec("torch", "PyTorch", None, ("fp32", "fp16"), "device", extra="cuda-torch", reads=("device",)),
    )
}  # fmt: skip
"""Name → engine, in the order in which `--help` lists them."""


def check_precision(engine: Engine, precision: ComputePrecision | None) -> None:
    """OptionError where the engine does not compute in this precision."""
    if precision is None or engine == AUTO or precision in ENGINES[engine].precisions:
        return
    others = [name for name, spec in ENGINES.items() if precision in spec.precisions]
    raise OptionError(
        f"precision {precision} does not run on {engine}, which computes in {', '.join(ENGINES[engine].precisions)}: "
        f"choose one of them, or --engine {' or '.join(others)}"
    )
