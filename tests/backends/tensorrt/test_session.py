"""One engine: the order of calls, what it refuses, shapes and memory, on the recording double."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_device import FakeDevice
from hiif_deploy.backends.cuda.memory import DeviceTensor
from hiif_deploy.backends.cuda.streams import Gpu
from hiif_deploy.backends.tensorrt.library import Library, load_library
from hiif_deploy.backends.tensorrt.session import TrtSession
from hiif_deploy.bundle.contract import GraphContract
from hiif_deploy.bundle.loader import Bundle, open_bundle
from hiif_deploy.errors import EngineError
from hiif_engines.tensorrt.build import build_engine
from hiif_engines.tensorrt.profiles import make_profiles
from tensorrt_double.install import installed
from trt_bench import SMALL


class Bench:
    """The maps graph's engine, and what it runs on."""

    def __init__(self, bundle: Bundle, trt: Any, device: FakeDevice) -> None:
        self.trt, self.device = trt, device
        self.library: Library = load_library()
        self.graph: GraphContract = bundle.contract.graph("maps", "fp16")
        profile = make_profiles(bundle.contract, "fp16", SMALL)["maps"]
        self.data = build_engine(self.library, self.graph, bundle.graphs[self.graph.key], profile)
        self.gpu = Gpu(device)
        trt.testing.calls.clear()

    def open(self, data: bytes | None = None, graph: GraphContract | None = None) -> TrtSession:
        return TrtSession(self.library, graph or self.graph, data or self.data, self.gpu)

    def tensors(self, height: int, width: int) -> dict[str, DeviceTensor]:
        pixels = (height - 2) * (width - 2)
        shapes = {"features": (1, 16, height, width), "moments": (pixels, 2)}
        dtypes = {tensor.name: tensor.dtype for tensor in (*self.graph.inputs, *self.graph.outputs)}
        return {name: self.gpu.pool.take(shapes.get(name, (pixels, 48)), dtype) for name, dtype in dtypes.items()}

    def calls(self) -> list[str]:
        return [name.partition(".")[2] for name in self.trt.testing.names("IExecutionContext")]


@pytest.fixture
def bench(half_bundle: Path) -> Iterator[Bench]:
    device = FakeDevice()
    with installed(device) as trt:
        bench = Bench(open_bundle(half_bundle), trt, device)
        yield bench
        bench.gpu.synchronize()


def test_a_run_sets_shapes_where_they_differ_addresses_memory_and_is_queued(bench: Bench) -> None:
    session, tensors = bench.open(), bench.tensors(6, 8)
    shapes = ["set_input_shape", "infer_shapes", "update_device_memory_size_for_shapes"]
    run = [*["set_tensor_address"] * 6, "set_device_memory", "execute_async_v3"]
    for size, expected in ((6, [*shapes, *run]), (6, run), (9, [*shapes, *run])):
        tensors = tensors if size == 6 else bench.tensors(size, 8)
        bench.trt.testing.calls.clear()
        session.enqueue(tensors)
        assert [name for name in bench.calls() if name != "get_tensor_shape"] == expected


def test_queued_runs_of_several_shapes_each_answer_their_own_inputs(bench: Bench) -> None:
    session, answers = bench.open(), []
    for height in (6, 9, 6, 3):
        features = np.full((1, 16, height, 8), height, np.float16)
        tensors = bench.tensors(height, 8) | {"features": bench.gpu.upload(features, features.dtype)}
        session.enqueue(tensors)
        answers.append((features, bench.gpu.download(tensors["moments"])))
    found = [(features, download.wait()) for features, download in answers]
    for features, moments in found:
        # Zeros of the halo aside, all pixels are equal, and a larger picture holds larger sums.
        assert moments.shape == ((features.shape[2] - 2) * 6, 2)
        assert np.ptp(moments[:, 0]) < 1e-2 * abs(float(moments[0, 0]))
    assert found[0][1][0, 1] == found[2][1][0, 1] < found[1][1][0, 1]


def test_after_a_refused_shape_the_next_run_sets_all_of_them_again(bench: Bench) -> None:
    session, tensors = bench.open(), bench.tensors(6, 8)
    session.enqueue(tensors)
    with pytest.raises(EngineError, match="takes features from"):
        session.enqueue(bench.tensors(131, 8))
    bench.trt.testing.calls.clear()
    session.enqueue(tensors)
    assert bench.calls()[0] == "set_input_shape"


def test_a_size_of_memory_that_cannot_be_told_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.trt.IExecutionContext, "update_device_memory_size_for_shapes", lambda _: 0)
    with pytest.raises(EngineError, match=r"engine of graph maps.fp16: the size of its memory cannot be told"):
        bench.open().enqueue(bench.tensors(6, 8))


def test_one_scratch_block_serves_all_shapes_and_grows_with_the_largest(bench: Bench) -> None:
    session = bench.open()
    sizes = []
    for height in (4, 12, 5, 20, 6):
        session.enqueue(bench.tensors(height, 8))
        sizes.append(bench.gpu.scratch(0).nbytes)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    again = bench.open()
    again.enqueue(bench.tensors(20, 8))
    assert bench.gpu.scratch(0).nbytes == sizes[-1]


def test_the_answer_is_that_of_the_graph(bench: Bench, half_bundle: Path) -> None:
    from hiif_deploy.backends.sessions.onnxruntime import OrtSession

    features = np.random.default_rng(3).standard_normal((1, 16, 6, 8)).astype(np.float16)
    tensors = bench.tensors(6, 8) | {"features": bench.gpu.upload(features, features.dtype)}
    bench.open().enqueue(tensors)
    answer = bench.gpu.download(tensors["moments"]).wait()
    expected = OrtSession(bench.graph, (half_bundle / "maps.fp16.onnx").read_bytes(), "cpu", 1)
    np.testing.assert_allclose(answer, expected.run({"features": features})["moments"], rtol=1e-5)


def test_a_shape_outside_the_profile_is_answered_with_the_profile(bench: Bench) -> None:
    message = (
        r"engine of graph maps.fp16: takes features from \(1, 16, 3, 3\) to \(1, 16, 130, 50\), got \(1, 16, 131, 8\)"
    )
    with pytest.raises(EngineError, match=message):
        bench.open().enqueue(bench.tensors(131, 8))


def test_an_output_of_another_shape_is_refused_before_it_is_written(bench: Bench) -> None:
    tensors = bench.tensors(6, 8)
    tensors["map_2"] = bench.gpu.pool.take((23, 48), "float16")
    with pytest.raises(EngineError, match=r"answers map_2 as \(24, 48\), expected \(23, 48\)"):
        bench.open().enqueue(tensors)


@pytest.mark.parametrize("position", [0, 10, 100])
def test_an_engine_that_does_not_load_says_why_and_what_to_do(bench: Bench, position: int) -> None:
    damaged = bytearray(bench.data)
    damaged[position] ^= 0xFF
    with pytest.raises(
        EngineError, match=r"graph maps.fp16: tensorrt 11.4.0.106 does not load .*\(.+\); build it again"
    ):
        bench.open(bytes(damaged))


def test_an_engine_of_another_version_is_refused(bench: Bench) -> None:
    bench.trt.__version__ = "10.16.1.11"
    with pytest.raises(EngineError, match=r"does not load this engine \(.*\)"):
        bench.open()


def test_the_librarys_own_reason_is_part_of_the_message(bench: Bench) -> None:
    bench.trt.testing.fail_deserialize("the stars are not right")
    with pytest.raises(EngineError, match="the stars are not right"):
        bench.open()


def test_an_engine_of_another_graph_is_refused(bench: Bench) -> None:
    other = dataclasses.replace(bench.graph, outputs=bench.graph.outputs[:-1])
    with pytest.raises(EngineError, match=r"its tensors differ from the contract \(moments\)"):
        bench.open(graph=other)
    wide = tuple(dataclasses.replace(tensor, dtype="float32") for tensor in bench.graph.outputs)
    with pytest.raises(EngineError, match=r"differ from the contract \(map_0, map_1, map_2, map_3\)"):
        bench.open(graph=dataclasses.replace(bench.graph, outputs=wide))
