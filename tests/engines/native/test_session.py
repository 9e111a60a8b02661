"""What machine code must never be given: shapes other than its own, and places beyond an array."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attention_model import ATTENTION_MODEL
from hiif_deploy import EngineError, EngineOptions
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_engines.native.backend import NativeBackend
from hiif_engines.native.fronts.gather import Gather
from hiif_engines.native.kernel import Kernel
from hiif_engines.native.layer import Norm
from hiif_engines.native.stage import FirstWeights, Product
from hiif_engines.native.sums import KeyValueSums
from hiif_engines.native.target import TARGETS

pytestmark = pytest.mark.processor

ENGINE = EngineOptions(engine="native", threads=1)


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> NativeBackend:
    request.getfixturevalue("native")
    return NativeBackend(open_bundle(ATTENTION_MODEL), ENGINE)


def feeds_of(backend: NativeBackend, name: str) -> dict[str, Any]:
    sizes = {"pixels": 12, "rows": 2, "columns": 3, "queries": 6}
    return {
        tensor.name: np.ones([sizes.get(str(size), size) for size in tensor.shape], tensor.dtype)
        for tensor in backend.contract.stages[name].inputs
    }


@pytest.mark.parametrize(
    ("graph", "tensor", "shape"),
    [
        ("mix_0", "state_0", (6, 48)),
        ("mix_0", "attention_0_weight", (64, 32)),
        ("tail", "row_bits", (3, 2, 1)),
        ("tail", "state_1", (5, 64)),
        ("sums_0", "state_0", (6,)),
        ("first", "map_2", (11, 64)),
        ("first", "moments", (12, 1)),
        ("first", "column_tap", (2, 1, 4)),
    ],
)
def test_an_input_of_another_shape_is_refused(
    backend: NativeBackend, graph: str, tensor: str, shape: tuple[int, ...]
) -> None:
    feeds = feeds_of(backend, graph)
    feeds[tensor] = np.ones(shape, feeds[tensor].dtype)
    with pytest.raises(EngineError, match=rf"graph {graph}: \w+ is .*expected"):
        backend.sessions[graph].run(feeds)


@pytest.mark.parametrize("tap", [-8, 11])
def test_a_tap_beyond_the_maps_is_refused(backend: NativeBackend, tap: int) -> None:
    feeds = feeds_of(backend, "first")
    feeds["row_tap"][1, 1] = tap
    with pytest.raises(EngineError, match="taps beyond the 12 pixels of the maps"):
        backend.sessions["first"].run(feeds)


def with_weight(name: str, shape: tuple[int, ...]) -> Bundle:
    """The shipped model with one weight of its last graph in another shape."""
    bundle = open_bundle(ATTENTION_MODEL)
    model = onnx.load_from_string(bundle.graphs["tail"])
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    weight.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return dataclasses.replace(bundle, graphs={**bundle.graphs, "tail": model.SerializeToString()})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("levels.1.weight", (64, 32)),
        ("levels.1.weight", (128, 64)),
        ("levels.1.second.weight", (64, 16)),
        ("levels.1.second.bias", (32,)),
        ("levels.2.position.table", (3, 64)),
        ("levels.4.second.weight", (5, 64)),
        ("attention.second.weight", (64, 32)),
    ],
)
def test_weights_that_do_not_fit_each_other_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError):
        NativeBackend(with_weight(name, shape), ENGINE)


def test_a_contract_that_promises_other_sizes_is_refused() -> None:
    bundle = open_bundle(ATTENTION_MODEL)
    tail = bundle.contract.graph("tail")
    inputs = tuple(
        dataclasses.replace(tensor, shape=(2, *tensor.shape[1:])) if tensor.name.endswith("_bits") else tensor
        for tensor in tail.inputs
    )
    graphs = tuple(
        dataclasses.replace(graph, inputs=inputs) if graph.name == "tail" else graph for graph in bundle.contract.graphs
    )
    changed = dataclasses.replace(bundle, contract=dataclasses.replace(bundle.contract, graphs=graphs))
    with pytest.raises(EngineError, match="row_bits is"):
        NativeBackend(changed, ENGINE)


def test_parts_that_do_not_fit_are_refused() -> None:
    def ones(*shape: int) -> Any:
        return np.ones(shape, np.float32)

    with pytest.raises(EngineError, match="do not fit"):
        Product(ones(4, 8), ones(4))
    with pytest.raises(EngineError, match="expected width 32"):
        FirstWeights(ones(2, 16), ones(4, 32), ones(32), Gather(32, Norm(100, 1e-5)))
    with pytest.raises(EngineError, match="in multiples of 16"):
        Kernel(40, (), KeyValueSums(40, 2, 1e-5), TARGETS["avx512"])
