"""Which graphs of a bundle have a fused kernel, and how that is cut on this device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from hiif_deploy.bundle import Bundle
from hiif_deploy.contract import Precision
from hiif_deploy.errors import EngineError, MissingExtraError
from hiif_engines.torch_graph import TorchGraph


def fused_kernels(
    bundle: Bundle, precision: Precision, device: torch.device
) -> dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
    """Decoder and statistics kernels by their graphs' names. EngineError where the decoder has another form."""
    if find_spec("triton") is None:
        raise MissingExtraError("triton", "cuda-torch")
    from hiif_engines.fused_decoder import Cut, FusedDecoder, FusedStatistics

    chain = bundle.contract.chain("fp32")
    graphs = {
        name: TorchGraph(graph, bundle.graphs[graph.key], device)
        for name, graph in chain.items()
        if name == "decoder" or name.startswith("statistics_")
    }
    dtype = torch.float16 if precision == "fp16" else torch.float32
    cut = Cut()
    if device.type == "cuda":
        cut = Cut(programs=torch.cuda.get_device_properties(device).multi_processor_count)
    kernels: dict[str, FusedDecoder | FusedStatistics] = {"decoder": FusedDecoder(graphs["decoder"], dtype)}
    for name in graphs.keys() - {"decoder"}:
        if "key_value.projection.weight" not in graphs[name].weights:
            raise EngineError(f"graph {name} has no keys and values, as a HIIF's has: it is not fused")
        kernels[name] = FusedStatistics(graphs[name], dtype)
    return {name: partial(kernel, cut=cut) for name, kernel in kernels.items()}
