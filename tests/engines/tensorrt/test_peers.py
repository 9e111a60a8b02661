"""TensorRT-RTX's real parser on the peers' graphs: which it takes, typed as their names say, and which not."""

from __future__ import annotations

from typing import Any

import pytest

from hiif_deploy.backends.tensorrt.library import Library, Messages
from hiif_deploy.bundle.contract import Precision, is_fold
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.errors import EngineError
from hiif_engines.tensorrt.network import parse_network


def parse_all(rtx: Library, pairs: Any, name: str, precision: Precision) -> None:
    """Every graph but the encoder's and the folds."""
    bundle = open_bundle(pairs.bundle(name, "edsr-baseline"))
    for key, graph in bundle.contract.chain(precision).items():
        if key != "encoder" and not is_fold(key):
            messages = Messages(rtx)
            builder = rtx.module.Builder(messages.logger)
            parse_network(rtx, builder, messages, graph, bundle.graphs[graph.key])


@pytest.mark.parametrize(("name", "precision"), [("liif", "fp16"), ("sronet", "fp16"), ("lte", "fp32")])
def test_graphs_are_parsed_and_have_the_types_that_they_claim(
    rtx: Library, pairs: Any, name: str, precision: Precision
) -> None:
    parse_all(rtx, pairs, name, precision)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lte", r"graph maps.fp16: layer .* computes in FLOAT, wanted HALF"),
        ("metasr", "graph decoder.fp16: the parsed network holds no matrix product"),
    ],
)
def test_graphs_that_half_precision_has_no_place_in_are_refused(
    rtx: Library, pairs: Any, name: str, reason: str
) -> None:
    """LTE: an angle of many turns keeps no fraction in half. MetaSR: the decoder only sums up what the maps hold."""
    with pytest.raises(EngineError, match=reason):
        parse_all(rtx, pairs, name, "fp16")
