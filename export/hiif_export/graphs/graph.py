"""One exported graph: a module, its named inputs and outputs, and the axes that stay dynamic."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from hiif_deploy.bundle.contract import Precision


@dataclass(frozen=True)
class Graph:
    """Everything that `onnx_file.to_onnx` needs to export one ONNX model."""

    name: str
    """Name of the graph and stem of its file."""
    module: nn.Module
    """Takes the inputs in order, returns one tensor per output (a tuple where there are several)."""
    inputs: Mapping[str, tuple[Tensor, tuple[str | int, ...]]]
    """Input name → an example tensor and its shape, a name for each dynamic axis."""
    outputs: Mapping[str, tuple[str | int, ...]]
    """Output name → shape, a name for each dynamic axis."""
    multiples: Mapping[str, int]
    """Dynamic axis → the number its size is always a multiple of, where that is not 1."""
    precision: Precision = "fp32"
    """Precision of features, weights and matrix products."""
