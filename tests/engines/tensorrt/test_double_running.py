"""Engines of the double compute what the graph says, and fail where real ones would."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest

from double_bench import RANGE, Running, expected, plan_of, source, sum_model
from fake_device import SCHEDULES, FakeDevice
from tensorrt_double.install import installed


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("managed", [True, False])
def test_an_engine_computes_what_the_graph_says(schedule: Any, managed: bool) -> None:
    with installed(FakeDevice(schedule=schedule)) as trt:
        running = Running(trt, plan_of(trt), managed=managed)
        for rows in (3, 16):
            running.prepare(rows)
            x = source(rows)
            running.device.upload(running.x, x, running.stream)
            assert running.execute()
            # One rounding to half of values below 16.
            np.testing.assert_allclose(running.answer(rows), expected(x), rtol=0, atol=2**-7)
        running.device.close()


def test_inputs_are_read_when_the_stream_gets_there(double: Any, device: FakeDevice) -> None:
    running = Running(double, plan_of(double))
    running.prepare(3)
    assert running.execute()
    x = source(3)
    device.upload(running.x, x, running.stream)
    assert not np.isfinite(running.answer(3)).all()


def test_what_is_set_after_queueing_does_not_reach_the_queued_run(double: Any, device: FakeDevice) -> None:
    running = Running(double, plan_of(double), managed=False)
    running.prepare(3)
    x = source(3)
    device.upload(running.x, x, running.stream)
    assert running.execute()
    running.context.set_tensor_address("y", device.allocate(16 * 8 * 4))
    running.context.set_input_shape("x", (16, 4))
    np.testing.assert_allclose(running.answer(3), expected(x), rtol=0, atol=2**-7)


def test_nothing_runs_while_anything_is_missing(double: Any, device: FakeDevice) -> None:
    running = Running(double, plan_of(double))
    context = running.context
    assert context.infer_shapes() == ["x"]
    assert not running.execute()
    assert not context.set_input_shape("x", (17, 4))
    assert not context.set_input_shape("y", (3, 8))
    assert tuple(context.get_tensor_shape("y")) == (-1, 8)
    running.prepare(3)
    assert tuple(context.get_tensor_shape("y")) == (3, 8)
    assert running.execute()
    assert not context.set_tensor_address("z", running.x)
    assert not context.set_tensor_address("x", running.x + 8)
    assert not context.execute_async_v3(0)
    context.set_tensor_address("x", 0)
    assert not running.execute()
    assert "the addresses of ['x'] are not set" in running.said[-1]
    device.synchronize(running.stream)


def test_device_memory_of_other_shapes_is_too_small(double: Any, device: FakeDevice) -> None:
    running = Running(double, plan_of(double, x=((1, 4), (8, 4), (1000, 4))))
    running.prepare(3)
    assert running.execute()
    running.context.set_input_shape("x", (500, 4))
    assert not running.execute()
    assert running.context.update_device_memory_size_for_shapes() > 256
    assert not running.execute()
    assert running.engine.device_memory_size_v2 > running.context.update_device_memory_size_for_shapes()
    device.synchronize(running.stream)


def test_axes_of_one_name_must_agree(double: Any) -> None:
    running = Running(double, plan_of(double, sum_model(), a=RANGE, b=RANGE))
    running.context.set_input_shape("a", (3, 4))
    running.context.set_input_shape("b", (4, 4))
    with pytest.raises(RuntimeError):
        running.context.infer_shapes()


@pytest.mark.parametrize("ordered", [True, False])
def test_scratch_memory_that_two_streams_share_without_order_shows(ordered: bool) -> None:
    device = FakeDevice(schedule="rivals")
    with installed(device) as trt:
        plan = plan_of(trt)
        first, second = Running(trt, plan), Running(trt, plan)
        first.prepare(3)
        second.prepare(3)
        second.context.set_device_memory(first.scratch, 256)
        assert first.execute()
        event = device.event()
        device.record(event, first.stream)
        if ordered:
            device.wait(second.stream, event)
        assert second.execute()
        with contextlib.nullcontext() if ordered else pytest.raises(trt.MisuseError, match="written by others"):
            device.synchronize(second.stream)


def test_a_context_on_two_streams_at_once_shows() -> None:
    device = FakeDevice(schedule="rivals")
    with installed(device) as trt:
        running = Running(trt, plan_of(trt))
        running.prepare(3)
        other = device.stream()
        assert running.execute()
        assert running.context.execute_async_v3(other)
        with pytest.raises(trt.MisuseError, match="a context runs twice at once"):
            device.synchronize(running.stream)


def test_an_output_over_its_input_shows(double: Any, device: FakeDevice) -> None:
    running = Running(double, plan_of(double))
    running.prepare(3)
    running.context.set_tensor_address("x", running.y)
    x = source(3)
    device.upload(running.y, x, running.stream)
    assert running.execute()
    assert not np.allclose(running.answer(3), expected(x), atol=0.1, equal_nan=True)


def test_a_value_is_poisoned_in_the_run_that_was_asked_for(double: Any, device: FakeDevice) -> None:
    running = Running(double, plan_of(double))
    running.prepare(3)
    x = source(3)
    device.upload(running.x, x, running.stream)
    double.testing.poison("y", call=1)
    counts = []
    for _ in range(3):
        assert running.execute()
        counts.append(int(np.isnan(running.answer(3)).sum()))
    assert counts == [0, 1, 0]
    assert double.testing.runs["y"] == 3


def test_calls_are_recorded_in_order_with_their_arguments(double: Any, device: FakeDevice) -> None:
    running = Running(double, plan_of(double))
    double.testing.calls.clear()
    running.prepare(3)
    running.execute()
    assert double.testing.names("IExecutionContext") == [
        f"IExecutionContext.{name}"
        for name in (
            "set_input_shape", "infer_shapes", "update_device_memory_size_for_shapes", "set_device_memory",
            "set_tensor_address", "set_tensor_address", "execute_async_v3",
        )
    ]  # fmt: skip
    first, last = double.testing.calls[0], double.testing.calls[-1]
    assert first.arguments["name"] == "x"
    assert first.arguments["shape"] == (3, 4)
    assert (last.label, last.arguments) == ("small", {"stream_handle": running.stream})
    device.synchronize(running.stream)


def test_an_engine_tells_its_tensors_and_profiles(double: Any) -> None:
    running = Running(double, plan_of(double))
    engine = running.engine
    names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
    assert names == ["x", "y"]
    assert [engine.get_tensor_mode(name).name for name in (*names, "z")] == ["INPUT", "OUTPUT", "NONE"]
    assert [engine.get_tensor_dtype(name).name for name in names] == ["HALF", "FLOAT"]
    assert [tuple(engine.get_tensor_shape(name)) for name in names] == [(-1, 4), (-1, 8)]
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 0)] == list(RANGE)
    with pytest.raises(RuntimeError):
        engine.get_tensor_profile_shape("y", 0)
    assert engine.name == "small"


@pytest.mark.parametrize(("version", "key"), [("10.13.3.9", "Bindings"), ("11.4.0.106", "I/O Tensors")])
def test_the_inspector_speaks_as_its_version(double: Any, version: str, key: str) -> None:
    double.__version__ = version
    engine = Running(double, plan_of(double)).engine
    text = engine.create_engine_inspector().get_engine_information(double.LayerInformationFormat.JSON)
    assert json.loads(text)[key] == ["x", "y"]
