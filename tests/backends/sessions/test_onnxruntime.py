"""ONNX Runtime runs a graph on the requested provider, or says in one sentence why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from hiif_deploy.backends.options import EngineOptions, usable_cores
from hiif_deploy.backends.providers import INSTALL, PROVIDERS
from hiif_deploy.backends.sessions.onnxruntime import OrtSession, provider_choice
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.errors import BundleError, EngineError, OptionError
from hiif_deploy.upscaler import Upscaler

ABSENT = [name for name in PROVIDERS.values() if name not in ort.get_available_providers()]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> OrtSession:
    return load(bundle, "cpu")


def load(bundle: Bundle, provider: str) -> OrtSession:
    return OrtSession(bundle.contract.graph("encoder"), bundle.graphs["encoder"], provider, 1)


def image(height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(height).standard_normal((1, 3, height, width), dtype=np.float32)


def refused(work: Callable[[], object], *parts: str) -> None:
    with pytest.raises(EngineError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("provider", ["cpu", "CPU", "CPUExecutionProvider"])
def test_the_provider_in_use_is_the_requested_one(bundle: Bundle, provider: str) -> None:
    session = load(bundle, provider)
    assert session.provider == "CPUExecutionProvider"
    assert session._session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("provider", ABSENT)
def test_an_absent_provider_is_refused_with_what_is_there_and_what_adds_it(bundle: Bundle, provider: str) -> None:
    there = f"({ort.__version__} has {', '.join(ort.get_available_providers())})"
    added = f"add it with: {INSTALL[provider]}" if provider in INSTALL else ""
    refused(lambda: load(bundle, provider), f"{provider} is not in this ONNX Runtime", there, added)


def test_a_short_name_stands_for_its_provider(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for short, provider in PROVIDERS.items():
        if short != "cpu":
            refused(lambda short=short: load(bundle, short), f"{provider} is not in this ONNX Runtime")


@pytest.mark.parametrize("provider", ["warp-drive", "", "cpu ", "executionprovider"])
def test_an_unknown_provider_is_refused_with_what_is_there(bundle: Bundle, provider: str) -> None:
    refused(lambda: load(bundle, provider), f"{provider} is not in this ONNX Runtime", "CPUExecutionProvider")


def test_the_whole_upscaler_refuses_a_provider_that_is_not_there(bundle: Bundle) -> None:
    engine = EngineOptions(engine="onnxruntime", provider="warp-drive", threads=1)
    refused(lambda: Upscaler(bundle, engine=engine), "warp-drive is not in this ONNX Runtime")


def test_falling_back_to_another_provider_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fallen = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: fallen)
    message = "graph encoder: requested CUDAExecutionProvider, ONNX Runtime chose CPUExecutionProvider"
    refused(lambda: load(bundle, "cuda"), message, "doctor")


def test_bytes_that_are_no_graph_are_refused_with_the_graphs_name(bundle: Bundle) -> None:
    graph = bundle.contract.graph("maps")
    refused(lambda: OrtSession(graph, b"no graph", "cpu", 1), "graph maps: ONNX Runtime cannot load it: ")


@pytest.mark.parametrize(
    "wrong", [(3, 8, 8), (1, 4, 8, 8), (1, 1, 3, 8, 8)], ids=["no batch", "four colours", "too many axes"]
)
def test_a_failing_run_names_the_graph_and_the_shapes(encoder: OrtSession, wrong: tuple[int, ...]) -> None:
    feeds = {"image": np.zeros(wrong, np.float32)}
    refused(lambda: encoder.run(feeds), f"graph encoder failed on image {wrong}: ")


def test_a_failing_run_leaves_the_session_usable(encoder: OrtSession) -> None:
    before = encoder.run({"image": image(6, 5)})["features"]
    with pytest.raises(EngineError):
        encoder.run({"image": np.zeros((1, 4, 8, 8), np.float32)})
    np.testing.assert_array_equal(encoder.run({"image": image(6, 5)})["features"], before)


def test_inputs_of_another_layout_or_type_are_converted_and_further_ones_ignored(encoder: OrtSession) -> None:
    expected = encoder.run({"image": image(6, 5)})["features"]
    turned = np.asfortranarray(image(6, 5)).astype(np.float64, order="F")
    found = encoder.run({"image": turned, "cell": np.zeros(2)})["features"]
    np.testing.assert_array_equal(found, expected)


def test_outputs_are_named_as_promised_and_belong_to_the_caller(bundle: Bundle, encoder: OrtSession) -> None:
    first, second = (encoder.run({"image": image(6, 5)}) for _ in range(2))
    assert list(first) == [tensor.name for tensor in bundle.contract.graph("encoder").outputs]
    assert not np.shares_memory(first["features"], second["features"])
    first["features"][...] = 0
    assert second["features"].any()


def test_eight_threads_get_the_outputs_of_one(encoder: OrtSession) -> None:
    pictures = [image(height, 9) for height in range(4, 28)]
    alone = [encoder.run({"image": picture})["features"] for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda picture: encoder.run({"image": picture})["features"], pictures * 3))
    for expected, found in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_change_an_output(bundle: Bundle, threads: int) -> None:
    graph = bundle.contract.graph("encoder")
    session = open_session(
        graph, bundle.graphs["encoder"], EngineOptions(engine="onnxruntime"), threads=threads, keep_memory=True
    )
    found = session.run({"image": image(6, 5)})["features"]
    np.testing.assert_allclose(found, load(bundle, "cpu").run({"image": image(6, 5)})["features"], rtol=0, atol=1e-5)


def test_no_number_of_threads_means_all_usable_cores() -> None:
    assert EngineOptions(engine="onnxruntime").thread_count == usable_cores() >= 1
    assert EngineOptions(engine="onnxruntime", threads=3).thread_count == 3


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(OptionError, match=re.escape("threads is -1: expected 0 (all) or more")):
        EngineOptions(engine="onnxruntime", threads=-1)


def test_a_promised_tensor_that_the_graph_lacks_is_refused(bundle: Bundle) -> None:
    graph = bundle.contract.graph("encoder")
    other = replace(graph, outputs=(*graph.outputs, graph.inputs[0]))
    with pytest.raises(BundleError, match=re.escape("graph encoder: the file has ")):
        OrtSession(other, bundle.graphs["encoder"], "cpu", 1)


def test_cuda_is_set_to_full_fp32() -> None:
    assert provider_choice("CUDAExecutionProvider") == ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert provider_choice("CPUExecutionProvider") == ("CPUExecutionProvider", {})
