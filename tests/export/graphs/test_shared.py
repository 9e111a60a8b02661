"""The shared graphs that ship are those that their maker makes."""

from __future__ import annotations

import pytest

from hiif_deploy.bundle.onnx_check import OPERATORS
from hiif_deploy.decoding.shared_graphs import contracts, model

onnx = pytest.importorskip("onnx")

from hiif_export.graphs.shared import shared_models  # noqa: E402


@pytest.mark.parametrize("name", contracts())
def test_a_file_is_what_the_maker_writes(name: str) -> None:
    assert onnx.load_from_string(model(name)) == shared_models()[name]


def test_they_hold_what_a_bundle_may_hold_and_three_operations_more() -> None:
    nodes = [node for name in contracts() for node in onnx.load_from_string(model(name)).graph.node]
    assert not any(node.domain for node in nodes)
    # Bundles have no use for these, so theirs are refused still.
    assert {node.op_type for node in nodes} - OPERATORS == {"Expand", "ReduceMax", "ReduceMin", "Round"}
