"""OpenVINO against ONNX Runtime on the same bundle, in every arithmetic that this processor has."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hiif_deploy import EngineError, EngineOptions, OptionError, RenderOptions, Upscaler
from hiif_deploy.backends.options import ON_HOST
from hiif_deploy.backends.sessions.open import open_session
from hiif_deploy.bundle.contract import GraphContract, TensorContract, joined
from hiif_deploy.bundle.loader import open_bundle
from hiif_deploy.decoding.session import ComputePrecision
from hiif_deploy.images.samples import sample
from hiif_deploy.rendering.verify import measure
from tolerances import decibels, detail, products, rounding_error

pytestmark = pytest.mark.processor

session = pytest.importorskip(
    "hiif_deploy.backends.sessions.openvino", exc_type=ImportError, reason="OpenVINO is not installed"
)
SIZE = (70, 61)
TERMS = 576
"""Of the largest sum in a product: 64 channels of a 3×3 convolution."""


def needs(arithmetic: ComputePrecision) -> None:
    try:
        session.require_instructions(arithmetic)
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16", "int8"])
def test_openvino_equals_onnx_runtime_within_the_arithmetic(tiny_bundle: Path, arithmetic: ComputePrecision) -> None:
    needs(arithmetic)
    image = sample("astronaut")[:24, :20]
    options = EngineOptions(engine="openvino", precision=arithmetic, threads=2)
    with Upscaler(tiny_bundle) as exact, Upscaler(exact.bundle, engine=options) as other:
        expected = exact.render_unclamped(exact.encode(image), size=SIZE)
        answer = other.render_unclamped(other.encode(image), size=SIZE)
        assert other.description == f"OpenVINO, cpu, {arithmetic}"
    error = rounding_error(arithmetic, products(exact.bundle), TERMS)
    assert measure(answer, expected).psnr > decibels(error, detail(expected, image))


@pytest.mark.parametrize("arithmetic", ["bf16", "int8"])
def test_a_low_arithmetic_does_not_depend_on_how_the_work_is_cut(
    tiny_bundle: Path, arithmetic: ComputePrecision
) -> None:
    needs(arithmetic)
    image = sample("astronaut")[:20, :20]
    engine = EngineOptions(engine="openvino", precision=arithmetic)
    answers = []
    for block in (64, 4096):
        with Upscaler(tiny_bundle, engine=engine, options=RenderOptions(query_block=block)) as upscaler:
            answers.append(upscaler.render_unclamped(upscaler.encode(image), size=(60, 60)))
    # The library may round at other places in calls of another size: each is off by its own rounding.
    error = math.sqrt(2) * rounding_error(arithmetic, products(upscaler.bundle))
    assert measure(answers[0], answers[1]).psnr > decibels(error, detail(answers[1], image))


def test_matrices_are_brought_to_8_bits(tiny_bundle: Path) -> None:
    network = session.load_openvino().Core().read_model(model=open_bundle(tiny_bundle).graphs["tail"], weights=b"")
    assert session.quantise(network) > 0


def test_every_row_that_meets_a_matrix_in_8_bits_has_steps_of_its_own() -> None:
    needs("int8")
    size = 64
    x = np.zeros((2, size), dtype=np.float32)
    x[0, :2], x[1, 1] = (1.0, 0.001), 0.001
    answer = session.OpenvinoSession(*identity(size), "int8", threads=1, streams=1).run({"x": x})["y"]
    # Half a step of a row's range, by weights that are off by half a step of theirs; a processor may be more exact.
    for row, found in zip(x, answer, strict=True):
        assert np.abs(found - row).max() <= np.abs(row).max() * (1 / 2 / 127 + 1 / 2 / 127)


def test_a_call_of_one_thread_works_in_the_callers_thread() -> None:
    size = 256
    one = session.OpenvinoSession(*identity(size), "fp32", threads=1, streams=2)
    x = np.ones((60_000, size), dtype=np.float32)
    one.run({"x": x})
    own, all_threads = time.thread_time(), time.process_time()
    one.run({"x": x})
    own, all_threads = time.thread_time() - own, time.process_time() - all_threads
    assert own > all_threads / 2


def test_threads_of_callers_do_not_share_a_compiled_graph() -> None:
    size = 64
    one = session.OpenvinoSession(*identity(size), "fp32", threads=1, streams=2)
    rows = [np.full((500, size), n, dtype=np.float32) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda x: one.run({"x": x})["y"], rows * 10))
    for x, y in zip(rows * 10, answers, strict=True):
        np.testing.assert_array_equal(x, y)


TOGETHER = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from hiif_deploy.backends.sessions import openvino as openvino_session

def imported(name):
    # Both threads are on their way before either is through.
    try:
        both.wait(0.3)
    except threading.BrokenBarrierError:
        pass
    return import_module(name)

both = threading.Barrier(2)
openvino_session.import_module = imported
with ThreadPoolExecutor(2) as pool:
    first, second = (pool.submit(openvino_session.load_openvino) for _ in range(2))
    assert first.result() is second.result()
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry")))
"""


def test_two_threads_open_openvino_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", TOGETHER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


SIGNALLED = """
import faulthandler, signal, subprocess, sys, threading
from pathlib import Path
from hiif_deploy import EngineOptions, Upscaler
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
held = [Upscaler(Path(sys.argv[1]), engine=EngineOptions(engine="openvino", threads=1))]
other = threading.Thread(target=held.clear)
other.start()
other.join()
subprocess.run([sys.executable, "-c", "pass"], check=True)
print("alive")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are looked at as Linux has them")
def test_a_signal_after_the_last_session_ended_on_another_thread_is_survived(tiny_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(tiny_bundle)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def identity(size: int) -> tuple[GraphContract, list[bytes]]:
    """A graph that multiplies rows `x` with the identity matrix."""
    node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", size]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(np.eye(size, dtype=np.float32), "weight")
    graph = onnx.helper.make_graph([node], "identity", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    tensors = [(TensorContract(name, "float32", ("rows", size)),) for name in "xy"]
    return GraphContract("identity", "identity.onnx", "0" * 64, *tensors), [model.SerializeToString()]


def test_a_processor_without_the_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "processor_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(EngineError, match="avx512_bf16"):
        session.require_instructions("bf16")


def test_a_low_arithmetic_is_refused_on_other_engines() -> None:
    with pytest.raises(OptionError, match="--engine openvino"):
        EngineOptions(engine="onnxruntime", precision="int8")


def test_flags_are_read_from_the_system(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: x\nflags\t\t: fpu avx512_bf16 avx2\n", encoding="ascii")
    assert "avx512_bf16" in session.processor_flags(file)
    assert session.processor_flags(tmp_path / "absent") is None


def test_graphs_joined_to_one_have_the_outputs_of_one_after_the_other(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    parts = bundle.contract.last_pass
    assert len(parts) > 1
    whole = joined("whole", parts)
    one = session.OpenvinoSession(whole, [bundle.graphs[part.key] for part in parts], "fp32", threads=1, streams=1)
    rng = np.random.default_rng(0)
    sizes = {"queries": 12, "rows": 3, "columns": 4}
    feeds: dict[str, Any] = {
        tensor.name: rng.random([sizes.get(str(n), n) for n in tensor.shape]).astype(tensor.dtype)
        for tensor in whole.inputs
    }
    expected = dict(feeds)
    for part in parts:
        alone = session.OpenvinoSession(part, [bundle.graphs[part.key]], "fp32", threads=1, streams=1)
        expected |= alone.run(expected)
    assert set(feeds).isdisjoint({"state_1", "colour"})
    np.testing.assert_allclose(one.run(feeds)["colour"], expected["colour"], atol=1e-6)


def test_only_openvino_joins_graphs(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    first, *following = bundle.contract.last_pass
    models = [bundle.graphs[part.key] for part in following]
    with pytest.raises(EngineError, match="several parts"):
        open_session(
            joined("whole", [first, *following]), bundle.graphs[first.key], ON_HOST, threads=1, keep_memory=True,
            following=models,
        )  # fmt: skip
