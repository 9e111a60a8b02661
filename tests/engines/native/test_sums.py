"""Sums of a statistics pass and level 0 as machine code, against ONNX Runtime on the shipped model's graphs."""

from __future__ import annotations

import numpy as np
import pytest

from attention_model import ATTENTION_MODEL
from emulated_code import EMULATED
from hiif_deploy import EngineOptions
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.loader import open_bundle
from hiif_engines.native.backend import NativeBackend
from hiif_engines.native.check import check_kernels
from hiif_engines.native.kernel import BLOCK
from hiif_engines.native.target import Target

pytestmark = pytest.mark.processor


@pytest.fixture(scope="module")
def backend(target: Target) -> NativeBackend:
    return NativeBackend(open_bundle(ATTENTION_MODEL), EngineOptions(engine="native", threads=1, isa=target.name))


@pytest.mark.parametrize("queries", [1, 13, BLOCK, BLOCK + 7])
@pytest.mark.parametrize("n", [0, 1])
def test_sums_are_those_of_the_graph(backend: NativeBackend, queries: int, n: int) -> None:
    bundle, graph = open_bundle(ATTENTION_MODEL), backend.contract.stages[f"sums_{n}"]
    state = np.random.default_rng(queries).standard_normal((queries, 64)).astype(np.float32)
    known = open_session(
        graph, bundle.graphs[graph.key], EngineOptions(engine="onnxruntime"), threads=1, keep_memory=False
    )
    expected = known.run({f"state_{n}": state})
    found = backend.sessions[graph.name].run({f"state_{n}": state})
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert np.abs(found[name] - value).max() < 1e-5 * np.abs(value).max() + 1e-5


def test_every_stage_answers_as_its_graph(backend: NativeBackend) -> None:
    check_kernels(open_bundle(ATTENTION_MODEL), backend.contract.stages, backend.sessions, 2e-6)


def test_kernels_of_several_stages_answer_bit_for_bit_as_one_after_the_other(backend: NativeBackend) -> None:
    random, stages, sessions = np.random.default_rng(0), backend.contract.stages, backend.sessions
    sizes = {"pixels": 30, "rows": 9, "columns": 31}
    feeds = {}
    for tensor in (tensor for graph in stages.values() for tensor in graph.inputs):
        shape = [sizes.get(str(size), size) for size in tensor.shape]
        if not tensor.name.startswith("state_"):
            values = random.integers(0, 2, shape) if tensor.dtype.startswith("int") else random.random(shape)
            feeds[tensor.name] = values.astype(tensor.dtype)
    feeds["moments"][:, 1] += 200
    for name in ("first", "mix_0", "tail"):
        feeds |= sessions[name].run(feeds)
    for name in ("last_pass", "whole"):
        np.testing.assert_array_equal(sessions[name].run(feeds)["colour"], feeds["colour"])


def test_a_state_is_written_over_the_one_before(backend: NativeBackend) -> None:
    if backend.isa == EMULATED.name:
        pytest.skip("an emulated call has copies of its arrays")
    session, random = backend.sessions["mix_0"], np.random.default_rng(0)
    shapes = {tensor.name: tensor.shape for tensor in session.graph.inputs}
    state = random.standard_normal((BLOCK + 7, 64)).astype(np.float32)
    folded = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items() if name != "state_0"
    }
    expected = session.run({"state_0": state, **folded})["state_1"]
    assert not np.array_equal(expected, state)
    found = session.run({"state_0": state, "state_1": state, **folded})["state_1"]
    assert found is state
    np.testing.assert_array_equal(found, expected)
    # What does not fit is left alone.
    short = state[:5].copy()
    assert session.run({"state_0": state, "state_1": short, **folded})["state_1"].shape == state.shape
