"""The double of TensorRT has nothing that the real bindings lack, and answers as the real builder and parser answer.

What can run without a GPU runs twice, on the double and on TensorRT-RTX. What cannot is tested on the double alone.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fake_device import SCHEDULES, FakeDevice
from hiif_deploy.backends.cuda.device import DeviceFacts
from hiif_deploy.bundle.loader import open_bundle
from tensorrt_double.install import installed
from tensorrt_stubs import VERSIONS, StubsUnavailableError, make_rtx_stubs, make_stubs, stubs_folder

RANGE = ((1, 4), (8, 4), (16, 4))
ANOTHER_LOGGER = "differs from one already registered"
"""What is said, to the second logger, while two are in use."""
OURS = {"testing", "CrashError", "MisuseError"}
"""The only names of the double that are not TensorRT's."""


def model(kind: int = TensorProto.FLOAT16, source: int | None = None) -> onnx.ModelProto:
    """x (n, 4) → y (n, 8) fp32: a matrix product in `kind`, a rectifier, a cast."""
    weights = np.random.default_rng(1).standard_normal((4, 8))
    arrays = {"w": weights, "b": np.linspace(-1, 1, 8)}
    initial = [numpy_helper.from_array(a.astype(helper.tensor_dtype_to_np_dtype(kind)), n) for n, a in arrays.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], name="gemm"),
        helper.make_node("Relu", ["g"], ["r"], name="relu"),
        helper.make_node("Cast", ["r"], ["y"], name="cast", to=TensorProto.FLOAT),
    ]
    x = helper.make_tensor_value_info("x", source or kind, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    graph = helper.make_graph(nodes, "small", [x], [y], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def sum_model() -> onnx.ModelProto:
    """a (n, 4) + b (n, 4) → c."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "sum", tensors[:2], tensors[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class Bench:
    """A builder with all that must stay alive, and what the library said."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.said: list[str] = []
        self.logger = make_logger(trt, self.said)
        self.builder = trt.Builder(self.logger)
        flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.network = self.builder.create_network(1 << int(flag))
        self.parser = trt.OnnxParser(self.network, self.logger)
        self.config = self.builder.create_builder_config()

    def parse(self, source: bytes | onnx.ModelProto) -> bool:
        return bool(self.parser.parse(source if isinstance(source, bytes) else source.SerializeToString()))

    def errors(self) -> list[str]:
        return [self.parser.get_error(n).code().name for n in range(self.parser.num_errors)]

    def profile(self, **shapes: Any) -> int:
        profile = self.builder.create_optimization_profile()
        for name, given in shapes.items():
            profile.set_shape(name, *given)
        return int(self.config.add_optimization_profile(profile))

    def build(self) -> bytes | None:
        plan = self.builder.build_serialized_network(self.network, self.config)
        return None if plan is None else bytes(plan)


def make_logger(trt: Any, said: list[str]) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            shown = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR, trt.ILogger.WARNING)
            if shown and ANOTHER_LOGGER not in msg:
                said.append(msg)

    return Log()


def make_recorder(trt: Any, said: list[str]) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def report_error(self, *error: Any) -> bool:
            said.append(error[1])
            return True

        def num_errors(self) -> int:
            return len(said)

    return Recorder()


def make_monitor(trt: Any, said: list[str], on_step: Callable[[], bool]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, *_: int) -> None:
            said.append(f"start {phase_name} in {parent_phase}")

        def step_complete(self, *_: Any) -> bool:
            return on_step()

        def phase_finish(self, phase_name: str) -> None:
            said.append(f"finish {phase_name}")

    return Monitor()


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    device = FakeDevice()
    yield device
    device.close()


@pytest.fixture
def double(device: FakeDevice) -> Iterator[Any]:
    with installed(device) as module:
        yield module


def load_rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX's wheels")


@pytest.fixture(params=["double", "rtx"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("double") if request.param == "double" else load_rtx()


@pytest.fixture
def bench(library: Any) -> Bench:
    return Bench(library)


# The surface


class Surface:
    """Classes, methods and properties of a stub file."""

    def __init__(self, folder: Path) -> None:
        module = ast.parse((folder / "tensorrt" / "__init__.pyi").read_text(encoding="utf-8"))
        self.numbers: dict[str, dict[str, int]] = json.loads((folder / "enums.json").read_text(encoding="utf-8"))
        self.classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
        functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
        self.names = {*self.classes, *(node.name for node in functions)}
        self.names |= {ast.unparse(node.target) for node in module.body if isinstance(node, ast.AnnAssign)}

    def members(self, name: str) -> list[ast.stmt]:
        node = self.classes[name]
        bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in self.classes]
        return [*node.body, *(member for base in bases for member in self.members(base))]

    def signatures(self, kind: str, name: str) -> list[list[str]]:
        """Parameters of every overload, those with a default marked with `=`; empty where there is no such method."""
        found = [m for m in self.members(kind) if isinstance(m, ast.FunctionDef) and m.name == name]
        return [stub_parameters(method.args) for method in found if not method.decorator_list or overloaded(method)]

    def property(self, kind: str, name: str) -> str:
        """`read`, `write`, or nothing where there is no such property."""
        found = ""
        for member in self.members(kind):
            if isinstance(member, ast.AnnAssign) and ast.unparse(member.target) == name:
                return "write"
            if isinstance(member, ast.FunctionDef) and member.name == name and member.decorator_list:
                decorators = [ast.unparse(decorator) for decorator in member.decorator_list]
                found = "write" if f"{name}.setter" in decorators else found or "read"
        return found


def overloaded(method: ast.FunctionDef) -> bool:
    return [ast.unparse(decorator) for decorator in method.decorator_list] == ["typing.overload"]


def stub_parameters(arguments: ast.arguments) -> list[str]:
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]][1:]
    plain = len(names) - len(arguments.defaults)
    return [name if n < plain else f"{name}=" for n, name in enumerate(names)]


def our_parameters(function: Any) -> list[str]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return [p.name if p.default is p.empty else f"{p.name}=" for p in parameters]


def public_members(kind: type) -> dict[str, Any]:
    """What a class of the double has of its own, constructor included where it has one."""
    own = [vars(base) for base in reversed(kind.__mro__) if base.__module__.startswith("tensorrt.")]
    members = {name: value for scope in own for name, value in scope.items()}
    constructible = "__init__" in members and members["__init__"].__qualname__ != "Strict.__init__"
    return {n: v for n, v in members.items() if not n.startswith("_") or (n == "__init__" and constructible)}


def surplus(double: Any, surface: Surface) -> list[str]:
    """Everything in the double that the bindings lack, or have otherwise."""
    found = [name for name in set(double.__all__) - OURS if name not in surface.names]
    for name in sorted(set(double.__all__) - OURS):
        kind = getattr(double, name)
        if isinstance(kind, type) and name in surface.classes and not hasattr(kind, "__members__"):
            found += [f"{name}.{member}" for member in surplus_members(name, kind, surface)]
    return found


def surplus_members(name: str, kind: type, surface: Surface) -> Iterator[str]:
    for member, value in public_members(kind).items():
        if isinstance(value, property):
            if surface.property(name, member) not in (("write",) if value.fset else ("read", "write")):
                yield member
        elif inspect.isfunction(value):
            if our_parameters(value) not in surface.signatures(name, member):
                yield f"{member}{our_parameters(value)}, really {surface.signatures(name, member)}"
        elif not surface.property(name, member) and not any(
            isinstance(node, ast.ClassDef) and node.name == member for node in surface.members(name)
        ):
            yield member


def wrong_numbers(double: Any, surface: Surface) -> list[str]:
    found = []
    for name in set(double.__all__) - OURS:
        members = getattr(getattr(double, name), "__members__", {})
        for key, member in members.items():
            if surface.numbers[name].get(key) != int(member):
                found.append(f"{name}.{key} is {int(member)}, really {surface.numbers[name].get(key)}")
    return found


def surface_of(version: str) -> Surface:
    folder = stubs_folder()
    try:
        return Surface(make_rtx_stubs(folder) if version == "rtx" else make_stubs(folder, version))
    except StubsUnavailableError as error:
        pytest.skip(f"no stubs of TensorRT {version}: {error}")


def rtx_surface() -> Surface:
    load_rtx()
    pytest.importorskip("pybind11_stubgen")
    return surface_of("rtx")


def test_the_double_has_nothing_that_tensorrt_rtx_lacks(double: Any) -> None:
    surface = rtx_surface()
    assert surplus(double, surface) == []
    assert wrong_numbers(double, surface) == []


@pytest.mark.early
@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_has_nothing_that_tensorrt_lacks(double: Any, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    surface = surface_of(version)
    monkeypatch.setattr(double, "__version__", version)
    assert surplus(double, surface) == []
    assert wrong_numbers(double, surface) == []


def test_an_invented_member_of_the_double_is_found_out(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    surface = rtx_surface()

    def renamed(self: Any, tensor: str, shape: Any) -> bool:
        raise NotImplementedError

    renamed.__module__ = double.IExecutionContext.__module__
    monkeypatch.setattr(double.IExecutionContext, "set_input_shape", renamed)
    monkeypatch.setattr(double.ICudaEngine, "num_bindings", property(len), raising=False)
    monkeypatch.setattr(double.ICudaEngine, "num_layers", property(len, setattr))
    monkeypatch.setattr(double, "__all__", [*double.__all__, "init_plugins"])
    monkeypatch.setattr(double, "init_plugins", print, raising=False)
    assert sorted(name.partition("[")[0] for name in surplus(double, surface)) == [
        "ICudaEngine.num_bindings", "ICudaEngine.num_layers", "IExecutionContext.set_input_shape", "init_plugins",
    ]  # fmt: skip


def test_numbers_of_another_version_are_found_out(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    surface = rtx_surface()
    monkeypatch.setattr(double, "__version__", "10.13.3.9")
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED is 1, really 0" in wrong_numbers(double, surface)


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
    "cache of text": (TypeError, lambda b: b.config.create_timing_cache("text")),
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


# The parser


def broken(change: Callable[[Any], object]) -> onnx.ModelProto:
    changed = model()
    change(changed.graph)
    return changed


PARSED: dict[str, tuple[bytes | onnx.ModelProto, list[str]]] = {
    "a good model": (model(), []),
    "fp32": (model(TensorProto.FLOAT), []),
    "double precision": (model(TensorProto.DOUBLE), []),
    "nothing": (b"", []),
    "garbage": (b"\xff\xfe\xfd" * 20, ["MODEL_DESERIALIZE_FAILED"]),
    "a truncated model": (model().SerializeToString()[:-40], ["MODEL_DESERIALIZE_FAILED"]),
    "an unknown operator": (broken(lambda g: setattr(g.node[0], "op_type", "Foo")), ["INVALID_NODE"]),
    "a missing tensor": (broken(lambda g: g.node[0].input.__setitem__(1, "nope")), ["INVALID_GRAPH"]),
    "mixed types": (model(TensorProto.FLOAT16, TensorProto.FLOAT), ["INVALID_NODE"]),
}


@pytest.mark.parametrize("what", PARSED)
def test_the_parser_takes_and_refuses_the_same_models(what: str, bench: Bench) -> None:
    source, errors = PARSED[what]
    assert bench.parse(source) is (not errors)
    assert bench.errors() == errors
    assert bool(bench.said) is bool(errors)


def test_only_one_model_is_parsed(bench: Bench) -> None:
    assert bench.parse(model())
    assert not bench.parse(model())


def test_external_weights_are_found_from_a_path_only(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert not bench.parse(path.read_bytes())
    assert bench.errors() == ["INVALID_GRAPH"]
    second, third = Bench(bench.trt), Bench(bench.trt)
    assert second.parser.parse_from_file(str(path))
    assert second.network.num_layers >= 3
    (tmp_path / "weights.bin").unlink()
    assert not third.parser.parse_from_file(str(path))
    assert third.errors() == ["INVALID_GRAPH"]


def test_a_missing_file_is_an_invalid_value(bench: Bench, tmp_path: Path) -> None:
    assert not bench.parser.parse_from_file(str(tmp_path / "none.onnx"))
    assert bench.errors() == ["INVALID_VALUE"]


def typing(network: Any) -> dict[str, tuple[str, int]]:
    """Tensor → its type and rank, of all layers' outputs, inputs and outputs."""
    found = {}
    for layer in (network.get_layer(n) for n in range(network.num_layers)):
        for tensor in (layer.get_output(n) for n in range(layer.num_outputs)):
            found[tensor.name] = (tensor.dtype.name, len(tensor.shape))
    for tensor in (network.get_input(n) for n in range(network.num_inputs)):
        found[tensor.name] = (tensor.dtype.name, len(tensor.shape))
    return found


def layers(network: Any) -> dict[str, str]:
    """Layer → its type, of those that carry a node's name."""
    return {(found := network.get_layer(n)).name: found.type.name for n in range(network.num_layers)}


def both(double: Any, source: bytes) -> tuple[Bench, Bench]:
    ours, real = Bench(double), Bench(load_rtx())
    assert ours.parse(source), ours.said
    assert real.parse(source), real.said
    return ours, real


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE])
def test_a_small_model_has_the_real_parsers_types(double: Any, kind: int) -> None:
    ours, real = both(double, model(kind).SerializeToString())
    expected = typing(real.network)
    assert {name: expected[name] for name in "xgry"} == {name: typing(ours.network)[name] for name in "xgry"}
    kinds = layers(real.network)
    assert {name: kinds[name] for name in ("gemm", "relu", "cast")} == {
        name: layers(ours.network)[name] for name in ("gemm", "relu", "cast")
    }


def test_nodes_without_a_name_are_named_after_their_output(bench: Bench) -> None:
    unnamed = model()
    for node in unnamed.graph.node:
        node.name = ""
    bench.parse(unnamed)
    assert {"node_of_g", "node_of_r", "node_of_y"} <= set(layers(bench.network))


def test_every_graph_of_a_bundle_has_the_real_parsers_types(double: Any, tiny_bundle: Path) -> None:
    compared = 0
    for name, source in open_bundle(tiny_bundle).graphs.items():
        if name.startswith("fold"):
            continue
        ours, real = (typing(side.network) for side in both(double, source))
        common = ours.keys() & real.keys()
        assert {tensor: ours[tensor] for tensor in common} == {tensor: real[tensor] for tensor in common}
        compared += len(common)
    assert compared > 60


# Building

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


# From here on the double alone: the rest needs a GPU


def plan_of(trt: Any, source: onnx.ModelProto | None = None, **shapes: Any) -> bytes:
    bench = Bench(trt)
    assert bench.parse(source or model())
    bench.network.name = "small"
    bench.profile(**(shapes or {"x": RANGE}))
    plan = bench.build()
    assert plan is not None
    return plan


class Running:
    """An engine with a context whose memory the caller manages, and buffers for its tensors."""

    def __init__(self, trt: Any, plan: bytes, *, managed: bool = True) -> None:
        self.device: FakeDevice = trt.testing.device
        self.said: list[str] = []
        self.logger = make_logger(trt, self.said)
        self.engine = trt.Runtime(self.logger).deserialize_cuda_engine(plan)
        strategy = trt.ExecutionContextAllocationStrategy
        self.context = self.engine.create_execution_context(strategy.USER_MANAGED if managed else strategy.STATIC)
        self.stream = self.device.stream()
        self.managed = managed

    def prepare(self, rows: int) -> None:
        assert self.context.set_input_shape("x", (rows, 4))
        assert self.context.infer_shapes() == []
        if self.managed:
            size = self.context.update_device_memory_size_for_shapes()
            self.scratch = self.device.allocate(size)
            self.context.set_device_memory(self.scratch, size)
        self.x, self.y = self.device.allocate(rows * 4 * 2), self.device.allocate(rows * 8 * 4)
        assert self.context.set_tensor_address("x", self.x)
        assert self.context.set_tensor_address("y", self.y)

    def execute(self) -> bool:
        return bool(self.context.execute_async_v3(self.stream.handle))

    def answer(self, rows: int) -> np.ndarray[Any, Any]:
        found = np.zeros((rows, 8), np.float32)
        self.device.download(found, self.y, self.stream)
        self.device.synchronize(self.stream)
        return found


def source(rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float16)


def expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    w, b = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in model().graph.initializer)
    return np.maximum(x.astype(np.float64) @ w + b, 0)


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


def test_a_graph_needs_an_ordinary_run_of_its_shapes_first(double: Any, device: FakeDevice) -> None:
    running = Running(double, plan_of(double))
    running.prepare(3)
    answers: list[bool] = []
    device.free_graph(device.capture(running.stream, lambda: answers.append(running.execute())))
    assert running.execute()
    graph = device.capture(running.stream, lambda: answers.append(running.execute()))
    device.synchronize(running.stream)
    assert answers == [False, True]
    assert "captured without an ordinary run" in running.said[-1]
    x = source(3)
    device.upload(running.x, x, running.stream)
    device.launch(graph, running.stream)
    np.testing.assert_allclose(running.answer(3), expected(x), rtol=0, atol=2**-7)


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
        assert running.context.execute_async_v3(other.handle)
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
    assert (last.label, last.arguments) == ("small", {"stream_handle": running.stream.handle})
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


def deserialize(trt: Any, plan: bytes, *, host_code: bool = False) -> tuple[Any, list[str]]:
    said: list[str] = []
    logger = make_logger(trt, said)
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = host_code
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
    ("built", "loaded", "host_code", "fits"),
    [("10.13.3.9", "10.16.1.11", True, True), ("10.13.3.9", "10.16.1.11", False, False),
     ("10.16.1.11", "10.13.3.9", True, False), ("10.16.1.11", "11.4.0.106", True, True)],
)  # fmt: skip
def test_version_compatible_plans_run_forward_only(
    double: Any, built: str, loaded: str, host_code: bool, fits: bool
) -> None:
    double.__version__ = built
    bench = Bench(double)
    bench.config.set_flag(double.BuilderFlag.VERSION_COMPATIBLE)
    bench.parse(model())
    bench.profile(x=RANGE)
    plan = bench.build()
    assert plan
    double.__version__ = loaded
    assert bool(deserialize(double, plan, host_code=host_code)[0]) is fits


@pytest.mark.parametrize(
    ("level", "gpu", "capability", "fits", "warns"),
    [("NONE", "Fake GPU", "8.9", True, False), ("NONE", "Other GPU", "8.9", True, True),
     ("NONE", "Other GPU", "8.6", False, True), ("SAME_COMPUTE_CAPABILITY", "Other GPU", "8.9", True, False),
     ("AMPERE_PLUS", "Other GPU", "12.0", True, False), ("AMPERE_PLUS", "Old GPU", "7.5", False, True)],
)  # fmt: skip
def test_plans_fit_the_gpus_that_they_were_built_for(
    level: str, gpu: str, capability: str, fits: bool, warns: bool
) -> None:
    with installed() as trt:
        bench = Bench(trt)
        bench.config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
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


def test_timing_caches_remember_and_refuse_other_gpus(double: Any) -> None:
    bench = Bench(double)
    cache = bench.config.create_timing_cache(b"")
    assert bench.config.set_timing_cache(cache, False)
    before = bytes(cache.serialize())
    bench.parse(model())
    bench.profile(x=RANGE)
    assert bench.build()
    kept = bytes(bench.config.get_timing_cache().serialize())
    assert kept != before
    again = Bench(double)
    loaded = again.config.create_timing_cache(kept)
    assert bytes(loaded.serialize()) == kept
    assert again.config.create_timing_cache(b"damaged") is None
    double.__version__ = "10.13.3.9"
    assert not again.config.set_timing_cache(loaded, False)
    assert again.config.set_timing_cache(loaded, True)


def drop_logger(bench: Bench) -> None:
    bench.logger = None


def drop_monitor(bench: Bench) -> None:
    bench.config.progress_monitor = make_monitor(bench.trt, [], lambda: True)


def drop_cache(bench: Bench) -> None:
    bench.config.set_timing_cache(bench.config.create_timing_cache(b""), False)


def drop_network(bench: Bench) -> None:
    bench.network = None
    gc.collect()
    bench.parse(model())
    pytest.fail("a parser without its network went on")


def recorder_too_early(bench: Bench) -> None:
    recorder = make_recorder(bench.trt, [])
    bench.builder.error_recorder = recorder
    bench.builder.create_network(1)


@pytest.mark.parametrize("drop", [drop_logger, drop_monitor, drop_cache, drop_network, recorder_too_early])
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
