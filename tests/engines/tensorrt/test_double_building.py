"""The double of TensorRT refuses and builds as the real builder does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from double_bench import ANOTHER_LOGGER, RANGE, Bench, make_monitor, make_recorder, model, sum_model


def set_shape(bench: Bench, low: Any) -> None:
    bench.builder.create_optimization_profile().set_shape("x", low, (1,), (1,))


REFUSED: dict[str, tuple[type[Exception], Callable[[Bench], object]]] = {
    "FP16 flag": (AttributeError, lambda b: b.trt.BuilderFlag.FP16),
    "explicit batch": (AttributeError, lambda b: b.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH),
    "workspace size": (AttributeError, lambda b: setattr(b.config, "max_workspace_size", 1)),
    "precision": (AttributeError, lambda b: setattr(b.config, "precision", 1)),
    "flag by number": (TypeError, lambda b: b.config.set_flag(3)),
    "level by name": (TypeError, lambda b: setattr(b.config, "builder_optimization_level", "high")),
    "float size": (TypeError, lambda b: b.config.set_memory_pool_limit(b.trt.MemoryPoolType.WORKSPACE, 1.5)),
    "unknown keyword": (TypeError, lambda b: b.builder.create_network(flag=1)),
    "negative flags": (TypeError, lambda b: b.builder.create_network(-1)),
    "no logger": (TypeError, lambda b: b.trt.Builder(None)),
    "logger by number": (TypeError, lambda b: b.trt.Logger(2)),
    "a constructor": (TypeError, lambda b: b.trt.IBuilderConfig()),
    "path object": (TypeError, lambda b: b.parser.parse_from_file(Path("x"))),
    "float shape": (TypeError, lambda b: set_shape(b, (1.0,))),
    "negative shape": (RuntimeError, lambda b: set_shape(b, (-1,))),
    "nine axes": (ValueError, lambda b: b.trt.Dims(range(9))),
    "dims with dims": (TypeError, lambda b: b.trt.Dims((1, 2)) == b.trt.Dims((1, 2))),
    "hash of dims": (TypeError, lambda b: hash(b.trt.Dims((1, 2)))),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_use_is_refused_with_the_real_kind_of_error(what: str, bench: Bench) -> None:
    kind, use = REFUSED[what]
    with pytest.raises(kind):
        use(bench)


def test_values_look_like_the_real_ones(library: Any) -> None:
    half, dims = library.DataType.HALF, library.Dims((1, 2))
    assert (repr(half), str(half), half.name, int(half)) == ("<DataType.HALF: 1>", "DataType.HALF", "HALF", 1)
    assert half == library.float16
    assert half != 1
    assert half.itemsize == 2
    assert dims == (1, 2)
    assert dims == [1, 2]
    assert (tuple(dims), len(dims), repr(dims)) == ((1, 2), 2, "(1, 2)")


def test_plans_are_buffers_without_a_length(bench: Bench) -> None:
    bench.parse(model())
    bench.profile(x=RANGE)
    plan = bench.builder.build_serialized_network(bench.network, bench.config)
    assert plan.nbytes == len(bytes(plan)) == memoryview(plan).nbytes > 0
    with pytest.raises(TypeError):
        len(plan)
    with pytest.raises(TypeError):
        plan[0]


def test_there_is_nothing_beyond_the_end(bench: Bench) -> None:
    bench.parse(model())
    network = bench.network
    beyond = [network.get_layer(99), network.get_layer(-1), network.get_input(1), network.get_output(1)]
    assert [*beyond, bench.parser.get_error(5), network.get_layer(0).get_output(9)] == [None] * 6


NONSENSE: dict[str, dict[str, Any]] = {
    "no shape for an input": {"q": RANGE},
    "another fixed size": {"x": ((1, 5), (8, 5), (16, 5))},
    "too few axes": {"x": ((1,), (8,), (16,))},
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_wrong_profile_is_noticed_only_by_the_build(what: str, bench: Bench) -> None:
    bench.parse(model())
    assert bench.profile(**NONSENSE[what]) == 0
    assert bench.said == []
    assert bench.build() is None
    assert bench.said


@pytest.mark.parametrize("shapes", [((9, 4), (8, 4), (4, 4)), ((1, 4), (8, 4, 4), (16, 4))])
def test_a_contradictory_profile_is_not_added(shapes: Any, bench: Bench) -> None:
    bench.parse(model())
    assert bench.profile(x=shapes) == -1
    assert bench.build() is None
    assert "no optimization profile has been defined" in " ".join(bench.said)


def test_unknown_names_and_ends_that_cannot_agree_build_without_a_word(bench: Bench) -> None:
    bench.parse(sum_model())
    bench.profile(a=RANGE, b=((2, 4), (8, 4), (9, 4)), q=RANGE)
    assert bench.build()
    assert bench.said == []


def test_axes_of_one_name_must_agree_in_the_middle_of_a_profile(bench: Bench) -> None:
    bench.parse(sum_model())
    bench.profile(a=RANGE, b=((1, 4), (4, 4), (16, 4)))
    assert bench.build() is None
    assert "Profile kOPT values are not self-consistent" in bench.said[0]


def test_a_second_logger_is_told_of_the_first(library: Any) -> None:
    said: list[str] = []

    class Log(library.ILogger):  # type: ignore[misc]
        def log(self, *message: Any) -> None:
            said.append(message[1])

    first, second = Bench(library), Log()
    builder = library.Builder(second)
    assert ANOTHER_LOGGER in said[0]
    assert builder.create_builder_config() is not first.config


def test_a_network_without_outputs_is_not_built(bench: Bench) -> None:
    assert bench.build() is None
    assert "must have at least one output" in bench.said[0]


def test_errors_go_to_the_recorder_instead_of_the_logger(bench: Bench) -> None:
    recorded: list[str] = []
    recorder = make_recorder(bench.trt, recorded)
    bench.builder.error_recorder = recorder
    assert bench.build() is None
    assert bench.said == []
    assert "must have at least one output" in recorded[0]
    bench.builder.error_recorder = None


def test_a_monitor_hears_of_nested_phases(bench: Bench) -> None:
    said: list[str] = []
    monitor = make_monitor(bench.trt, said, lambda: True)
    bench.config.progress_monitor = monitor
    bench.parse(model())
    bench.profile(x=RANGE)
    assert bench.build()
    assert said[0] == "start Building engine in None"
    assert said[-1] == "finish Building engine"
    assert any(line.endswith("in Building engine") for line in said)
    starts, finishes = (len([line for line in said if line.startswith(word)]) for word in ("start", "finish"))
    assert starts == finishes


def interrupt() -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", [lambda: False, interrupt], ids=["refusing", "raising"])
def test_a_monitor_that_refuses_or_raises_ends_the_build(
    step: Callable[[], bool], bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    monitor = make_monitor(bench.trt, said, step)
    bench.config.progress_monitor = monitor
    bench.parse(model())
    bench.profile(x=RANGE)
    assert bench.build() is None
    assert "Build canceled by user" in " ".join(bench.said)
    assert said[-1] == "finish Building engine"
    assert ("Exception caught in step_complete(): KeyboardInterrupt" in "".join(capfd.readouterr())) is (
        step is interrupt
    )


def test_optimisation_levels_are_clipped(bench: Bench) -> None:
    assert bench.config.builder_optimization_level == 3
    bench.config.builder_optimization_level = 9
    assert bench.config.builder_optimization_level == 5
    bench.config.builder_optimization_level = -1
    assert bench.config.builder_optimization_level in (3, 5)
    assert bench.said
