"""Plans and life times of the double are those of the real library."""

from __future__ import annotations

import gc
import importlib
import re
from collections.abc import Callable
from typing import Any

import pytest

from double_bench import RANGE, Bench, make_logger, make_monitor, make_recorder, model, plan_of
from fake_device import FakeDevice
from hiif_deploy.backends.cuda.device import DeviceFacts
from tensorrt_double.install import installed


def deserialize(trt: Any, plan: bytes) -> tuple[Any, list[str]]:
    said: list[str] = []
    logger = make_logger(trt, said)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    return engine and engine.name, said


def test_damaged_plans_are_refused_with_a_word_to_the_logger(double: Any) -> None:
    plan = plan_of(double)
    for damaged in (b"", b"no plan", plan[:-1], plan + b"x", *(plan[:size] for size in range(0, len(plan), 64))):
        engine, said = deserialize(double, damaged)
        assert engine is None
        assert len(said) == 1


def test_a_damaged_weight_is_not_noticed(double: Any) -> None:
    plan = plan_of(double)
    weights = model().graph.initializer[0].raw_data
    engine, said = deserialize(double, plan.replace(weights, bytes([weights[0] ^ 1]) + weights[1:]))
    assert (engine, said) == ("small", [])


def test_plans_of_other_versions_are_refused(double: Any) -> None:
    plan = plan_of(double)
    double.__version__ = "10.16.1.11"
    engine, said = deserialize(double, plan)
    assert engine is None
    assert "expecting library version 10.16.1.11 got 11.4.0.106, please rebuild" in said[0]


@pytest.mark.parametrize(
    ("gpu", "capability", "fits", "warns"),
    [("Fake GPU", "8.9", True, False), ("Other GPU", "8.9", True, True), ("Other GPU", "8.6", False, True)],
)
def test_plans_fit_the_gpus_that_they_were_built_for(gpu: str, capability: str, fits: bool, warns: bool) -> None:
    with installed() as trt:
        bench = Bench(trt)
        bench.parse(model())
        bench.profile(x=RANGE)
        plan = bench.build()
        assert plan
        trt.testing.device = FakeDevice(facts=DeviceFacts(gpu, capability, "13.0", 1 << 30))
        engine, said = deserialize(trt, plan)
        assert bool(engine) is fits
        assert bool(said) is warns


def test_failures_come_when_asked_for(double: Any) -> None:
    plan = plan_of(double)
    double.testing.fail_build("out of tactics")
    double.testing.fail_deserialize("out of luck")
    bench = Bench(double)
    bench.parse(model())
    bench.profile(x=RANGE)
    assert bench.build() is None
    assert "out of tactics" in bench.said[0]
    assert bench.build() == bench.build()
    engine, said = deserialize(double, plan)
    assert engine is None
    assert "out of luck" in said[0]
    assert deserialize(double, plan) == ("small", [])


def drop_logger(bench: Bench) -> None:
    bench.logger = None


def drop_monitor(bench: Bench) -> None:
    bench.config.progress_monitor = make_monitor(bench.trt, [], lambda: True)


def drop_network(bench: Bench) -> None:
    bench.network = None
    gc.collect()
    bench.parse(model())
    pytest.fail("a parser without its network went on")


def recorder_too_early(bench: Bench) -> None:
    recorder = make_recorder(bench.trt, [])
    bench.builder.error_recorder = recorder
    bench.builder.create_network(1)


@pytest.mark.parametrize("drop", [drop_logger, drop_monitor, drop_network, recorder_too_early])
def test_what_is_still_used_must_be_kept(drop: Callable[[Bench], None], double: Any) -> None:
    bench = Bench(double)
    if drop is not drop_network:
        bench.parse(model())
        bench.profile(x=RANGE)

    def use() -> None:
        drop(bench)
        gc.collect()
        bench.build()

    with pytest.raises(double.CrashError, match=re.escape("TensorRT would crash here")):
        use()


def test_each_installation_is_new_and_what_was_there_comes_back() -> None:
    with installed(version="10.13.3.9") as outer:
        assert importlib.import_module("tensorrt") is outer
        assert int(outer.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 1
        with installed() as inner:
            assert inner is not outer
            assert inner.testing.calls == []
            assert int(inner.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 0
        assert importlib.import_module("tensorrt") is outer
