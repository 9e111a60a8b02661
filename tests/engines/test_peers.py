"""TensorRT-RTX's real parser on the peers' graphs: which it takes, typed as their names say, and which not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hiif_deploy.contract import GraphContract, Precision, is_fold
from hiif_deploy.errors import EngineError
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


def parse_all(rtx: Library, name: str, precision: Precision, folder: Path) -> None:
    """Every graph but the encoder's and the folds."""
    torch.manual_seed(4)
    spec = {"name": name, "args": {"encoder_spec": ENCODER, **SPECS[name]}}
    form = make_form(make_model(spec).eval(), spec)
    for graph in form.graphs(precision)[1:]:
        if not is_fold(graph.name):
            file = folder / f"{graph.name}.onnx"
            file.write_bytes(to_onnx(graph).SerializeToString())
            contract = GraphContract(graph.name, file.name, "", *tensor_contracts(graph), precision)
            messages = Messages(rtx)
            builder = rtx.module.Builder(messages.logger)
            parse_network(rtx, builder, messages, contract, file)


@pytest.mark.parametrize(("name", "precision"), [("liif", "fp16"), ("sronet", "fp16"), ("lte", "fp32")])
def test_graphs_are_parsed_and_have_the_types_that_they_claim(
    rtx: Library, name: str, precision: Precision, tmp_path: Path
) -> None:
    parse_all(rtx, name, precision, tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lte", r"graph maps.fp16: layer .* computes in FLOAT, wanted HALF"),
        ("metasr", "graph decoder.fp16: the parsed network holds no matrix product"),
    ],
)
def test_graphs_that_half_precision_has_no_place_in_are_refused(
    rtx: Library, name: str, reason: str, tmp_path: Path
) -> None:
    """LTE: an angle of many turns keeps no fraction in half. MetaSR: the decoder only sums up what the maps hold."""
    with pytest.raises(EngineError, match=reason):
        parse_all(rtx, name, "fp16", tmp_path)
