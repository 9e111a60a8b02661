"""Engines of a graph that run here are found, the newest first, and the others are refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from hiif_deploy.engine_store.entry import Entry, RefusedEngine
from hiif_deploy.engine_store.store import EngineStore
from sample_engine import HERE, ONNX, stored


def find(store: EngineStore, bundle: str = "hiif-compact", graph: str = "encoder") -> list[Entry]:
    return store.find(HERE, bundle, graph, "fp16", ONNX)


def test_the_newest_fitting_engine_comes_first(store: EngineStore) -> None:
    made = [stored(store, flags={"optimization_level": level}) for level in (1, 5, 3)]
    assert find(store) == [made[2], made[1], made[0]]


def test_engines_of_other_graphs_and_precisions_are_not_found(store: EngineStore) -> None:
    stored(store, graph="decoder")
    stored(store, precision="fp32")
    assert find(store) == []


def test_an_engine_of_another_onnx_file_is_refused(store: EngineStore) -> None:
    stored(store, onnx_sha256="cd" * 32)
    (refused,) = find(store)
    assert isinstance(refused, RefusedEngine)
    assert refused.reason == "built from another ONNX file (cdcdcdcdcdcd…; this one is abababababab…)"
    assert find(store, bundle="other") == []


def test_a_bundle_of_another_name_with_the_same_onnx_file_shares_the_engine(store: EngineStore) -> None:
    engine = stored(store)
    assert find(store, bundle="other") == [engine]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"library_version": "10.9.0.34"}, "built by TensorRT 10.9.0.34 for NVIDIA GeForce RTX 4090 (8.9)"),
        ({"gpu": "NVIDIA L4"}, "here is TensorRT 10.13.3.9 for NVIDIA GeForce RTX 4090 (8.9)"),
        ({"library": "tensorrt-rtx"}, "the libraries do not run each other's engines"),
        ({"driver": "13.1"}, "it was built under a newer driver"),
    ],
)
def test_an_engine_of_another_machine_or_version_is_refused_with_the_reason(
    store: EngineStore, changes: dict[str, Any], words: str
) -> None:
    foreign = stored(store, **changes)
    own = stored(store)
    found, refused = find(store)
    assert (found, refused.path) == (own, foreign.path)
    assert isinstance(refused, RefusedEngine)
    assert words in refused.reason


def test_an_engine_that_was_built_for_a_capability_fits_each_gpu_of_it(store: EngineStore) -> None:
    engine = stored(store, flags={"target": "8.9"}, gpu="any of capability 8.9", driver="0")
    assert find(store) == [engine]


def test_the_file_name_decides_of_which_graph_an_unreadable_sidecar_is(store: EngineStore) -> None:
    path = stored(store, graph="statistics-0").path
    path.with_suffix(".json").write_text("{")
    (refused,) = find(store, graph="statistics-0")
    assert isinstance(refused, RefusedEngine)
    assert find(store, bundle="other", graph="statistics-0") == []
    assert find(store) == []
