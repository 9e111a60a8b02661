"""TensorRT-RTX's real parser takes the graphs of LIIF, LTE, SRNO and MetaSR, typed as their names say; one is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hiif_deploy.contract import GraphContract, Precision, is_fold
from hiif_deploy.trt_library import Library, Messages
from hiif_engines.network import parse_network
from hiif_export.form import make_form
from hiif_export.onnx_file import tensor_contracts, to_onnx
from hiif_training.models.registry import make_model

torch.set_num_threads(1)

ENCODER = {"name": "edsr-mini", "args": {"n_resblocks": 1, "no_upsampling": True}}
NETWORK = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [32, 32]}}
SPECS: dict[str, dict[str, Any]] = {
    "liif": {"imnet_spec": NETWORK},
    "lte": {"imnet_spec": NETWORK, "hidden_dim": 32},
    "sronet": {"width": 64, "blocks": 2},
    "metasr": {},
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", SPECS)
def test_every_graph_is_parsed_and_has_the_types_that_it_claims(
    rtx: Library, name: str, precision: Precision, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    spec = {"name": name, "args": {"encoder_spec": ENCODER, **SPECS[name]}}
    form = make_form(make_model(spec).eval(), spec)
    graphs = [graph for graph in form.graphs(precision)[1:] if not is_fold(graph.name)]
    assert graphs
    for graph in graphs:
        file = tmp_path / f"{graph.name}.onnx"
        file.write_bytes(to_onnx(graph).SerializeToString())
        contract = GraphContract(graph.name, file.name, "", *tensor_contracts(graph), precision)
        messages = Messages(rtx)
        builder = rtx.module.Builder(messages.logger)
        parse_network(rtx, builder, messages, contract, file)
