"""The shared graphs that ship are those that their maker makes."""

from __future__ import annotations

import pytest

from hiif_deploy.bundle.onnx_check import check_model
from hiif_deploy.decoding.shared_graphs import contracts, model

onnx = pytest.importorskip("onnx")

from hiif_export.graphs.shared import shared_models  # noqa: E402


@pytest.mark.parametrize("name", contracts())
def test_a_file_is_what_the_maker_writes(name: str) -> None:
    assert onnx.load_from_string(model(name)) == shared_models()[name]


def test_they_hold_no_operation_that_a_bundle_may_not_hold() -> None:
    for name in contracts():
        check_model(name, model(name))
